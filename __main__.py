"""Lets `python -m headrace` be the command `headrace`."""

from headrace.pipeline.commands.cli import main

main()
