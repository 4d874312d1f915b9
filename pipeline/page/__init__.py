"""The live page and `top`: one frame a second of what the pipeline does, for browsers and for a terminal.

Imported by `pipeline.commands`.
"""
