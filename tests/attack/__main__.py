"""Runs the fuzzer from the command line."""

import sys

from .run import main

sys.exit(main())
