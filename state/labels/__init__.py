"""Labels that come later: the join of features and labels, and the order in which both logs were read.

Imported by `pipeline`, `state.shard` and `state.snapshot`.
"""
