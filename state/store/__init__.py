"""Redis or Valkey: snapshots, rows, workers and their scripts.

Imported by `pipeline` and `state.shared`.
"""
