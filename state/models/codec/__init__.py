"""A River model as data: written, read, and checked, with nothing run on the way.

Imported by `state.models.learner`.
"""
