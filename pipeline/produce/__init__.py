"""The `produce` command: records into the features topic, and what became of each.

Imported by `pipeline.commands`.
"""
