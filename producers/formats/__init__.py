"""Predictions in Avro, Protobuf and JSON Schema, for a topic with a schema registry.

Imported by `pipeline`.
"""
