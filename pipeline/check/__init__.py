"""A sample of records: how it is read (`check`), and a project that fits it (`init --from`).

Imported by `pipeline.commands`.
"""
