"""What decides where a partition goes on: offsets' metadata, snapshots and the log, checked against each other.

Imported by `pipeline.commands`, `pipeline.control`, `pipeline.dlq`, `pipeline.page`, `pipeline.status`,
`pipeline.worker`.
"""
