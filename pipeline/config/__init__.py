"""The configuration: its sections, references to secrets, and what of it may be shown.

Imported by `pipeline.assembly`, `pipeline.commands`, `pipeline.demo`, `pipeline.dlq`,
`pipeline.model_factory`, `pipeline.process`, `pipeline.recovery`, `pipeline.storage` and `pipeline.worker`.
"""
