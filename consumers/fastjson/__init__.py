"""Compiled code that reads a batch's JSON straight into columns.

Imported by `consumers.formats`, `pipeline`.
"""
