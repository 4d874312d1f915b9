"""Records in Avro, Protobuf and JSON Schema, read with the schema that their writer registered.

Imported by `pipeline`.
"""
