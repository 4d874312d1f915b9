"""The state of the pipeline: asked from Kafka, the store and the workers, and told as one report.

Imported by `pipeline.commands`, `pipeline.page`.
"""
