"""What happens to a record, with no Kafka, no Redis and no clock.

Imported by `pipeline.assembly`, `pipeline.backtest`, `pipeline.serve` and `pipeline.worker`.
"""
