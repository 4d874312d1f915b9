"""A model for every key: the most recent ones in memory, all of them in the store.

Imported by `pipeline` and `state.loaded_model`.
"""
