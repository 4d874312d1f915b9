"""Lets `python -m pipeline` be `headrace`."""

from pipeline.cli import main

main()
