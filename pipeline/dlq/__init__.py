"""Dead letters: counted, shown, and replayed once each.

Imported by `pipeline.commands` and `pipeline.demo`.
"""
