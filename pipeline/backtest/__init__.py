"""How good models would have been on records of the past: test, then train, in the order of time.

Imported by `pipeline.commands`.
"""
