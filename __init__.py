"""Online learning on Kafka streams: `consumers`, `state` and `producers`, and `pipeline`, which runs them."""
