"""One model for all partitions: each worker's copy, their merge, and the mix in the store.

Imported by `pipeline`.
"""
