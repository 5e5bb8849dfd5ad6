"""Ctrl-C works in the tests, and in the processes that they start, also where the shell has told them to ignore it."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
