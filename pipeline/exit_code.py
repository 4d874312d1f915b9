"""The exit codes of commands and of worker processes, those of sysexits.h where it has one."""

import signal

EXIT_FAILED = 1
EXIT_AWAY = 69
"""Kafka, the store or the embedded servers are unavailable (EX_UNAVAILABLE)."""
EXIT_RAISED = 70
"""A child process raised an error that the code does not expect (EX_SOFTWARE)."""
EXIT_HUNG = 75
"""A worker ended itself; its parent starts another (EX_TEMPFAIL)."""
EXIT_STOPPED = 76
"""A worker was asked to stop, and did."""
EXIT_CONFIG = 78
"""The configuration or the model can't be used (EX_CONFIG)."""
EXIT_OF_STATUS = {503: EXIT_AWAY, 401: EXIT_CONFIG, 403: EXIT_CONFIG}
"""The exit code for the `status` of an error: a server is away, or refuses this user; otherwise `EXIT_FAILED`."""
EXIT_INTERRUPTED = 130
EXIT_ALARM = -signal.SIGALRM
"""The kernel ended a worker, as the worker had asked it to do when it hangs."""
