"""The losses of answers, and the test of a challenger against the champion.

Imported by `pipeline`, `state.history`.
"""
