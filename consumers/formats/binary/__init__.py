"""Batches of Avro and Protobuf records, read to columns in compiled code by a program for each writer's schema.

Imported by `pipeline`.
"""
