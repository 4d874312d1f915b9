"""The history of a shard beside its logs: commands, what was done on them, and where.

Imported by `pipeline`, `state.shard`, `state.snapshot`.
"""
