"""The configuration: its sections, its references to secrets, and the values that may be shown.

Imported by `pipeline.assembly`, `pipeline.backtest`, `pipeline.check`, `pipeline.commands`, `pipeline.connection`,
`pipeline.control`, `pipeline.demo`, `pipeline.dlq`, `pipeline.files`, `pipeline.formats`, `pipeline.model_factory`,
`pipeline.page`, `pipeline.process`, `pipeline.produce`, `pipeline.recovery`, `pipeline.serve`, `pipeline.status`,
`pipeline.storage`, `pipeline.worker`.
"""
