"""Processes of this machine: forks, a fixed start, the watchdog, locks and notes.

Imported by `pipeline.commands`, `pipeline.demo`, `pipeline.serve`, `pipeline.status` and `pipeline.worker`.
"""
