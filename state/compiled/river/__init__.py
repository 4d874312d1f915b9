"""River's estimators in the terms of a program: which part each becomes.

Imported by `state.compiled.compiler`.
"""
