"""What learns: River behind one protocol, what a model is built of, and how a failed record is undone.

Imported by `pipeline`, `state.compiled`, `state.keyed`, `state.loaded_model`, `state.measures`, `state.model_check`,
`state.promotion`, `state.quality`, `state.running_metrics`, `state.shard`, `state.shard_model`, `state.shared`,
`state.snapshot`.
"""
