"""Files as people have them: what a file is, and its rows as records.

Imported by `pipeline.backtest`, `pipeline.check`, `pipeline.commands`, `pipeline.produce`.
"""
