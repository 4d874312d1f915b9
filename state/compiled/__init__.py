"""River models as programs that run over whole batches of columns.

Imported by `pipeline`, `state.keyed`, `state.promotion`.
"""
