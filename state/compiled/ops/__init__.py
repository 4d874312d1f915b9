"""The compiled operations of a program, with River's arithmetic to the last bit.

Imported by `state.compiled.compiled_learner`, `state.compiled.river` and `state.compiled.vocabulary`.
"""
