"""Redis or Valkey: snapshots, rows, workers and their scripts.

Imported by `pipeline`, `state.loaded_model` and `state.shared`.
"""
