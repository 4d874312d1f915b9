"""The families of final estimators: each has arrays and functions of its own, compiled only if a model needs them."""
