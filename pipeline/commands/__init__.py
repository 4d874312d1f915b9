"""The command line: one module a command.

Imported by no other folder.
"""
