"""The models that answer: loaded from the store, kept fresh, found for a record.

Imported by `pipeline.serve.asking`, `pipeline.serve.prediction_queue`, `pipeline.serve.predictor`,
`pipeline.serve.server_process`, `pipeline.serve.store_answers`.
"""
