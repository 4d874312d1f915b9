"""Compiled code that writes a batch of predictions as JSON.

Imported by `pipeline`.
"""
