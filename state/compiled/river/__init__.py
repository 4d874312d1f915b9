"""River's estimators as the parts of a program.

Imported by `state.compiled.compiler`.
"""
