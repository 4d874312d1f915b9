"""One worker: its loop from poll to commit, takeovers, saves and pauses.

Imported by `pipeline.commands`.
"""
