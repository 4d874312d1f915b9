"""Commands on models: their topics, how they are sent and taken, and what the journal tells of them.

Imported by `pipeline.commands`, `pipeline.worker`.
"""
