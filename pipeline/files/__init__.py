"""Files as people have them: what a file is, and its rows as records.

Imported by `pipeline.produce`, `pipeline.check`.
"""
