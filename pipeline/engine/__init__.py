"""What happens to a record, with no Kafka, no Redis and no clock.

Imported by `pipeline.assembly`, `pipeline.backtest`, `pipeline.model_factory`, `pipeline.serve`, `pipeline.worker`.
"""
