"""`headrace serve`: an HTTP server that answers from the models in the store.

Imported by `pipeline.commands` and `pipeline.page`.
"""
