"""The `dlq` commands: count dead letters, show them, and replay each of them once.

Imported by `pipeline.commands`, `pipeline.control`, `pipeline.demo`, `pipeline.page`, `pipeline.produce`.
"""
