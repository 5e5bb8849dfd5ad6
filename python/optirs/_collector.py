"""No collection of cycles while very many objects are made at once, none of which is one."""

import gc
import os
import threading


class _Pause:
    """The collector looks at new objects every so often, and at all others the more there are: several times at each.

    Blocks may nest, also where a signal or a profiler comes in between, and run in several threads: the first one stops
    the collector, if it runs, the last one starts it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._blocks = 0
        self._stopped = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def __enter__(self) -> None:
        with self._lock:
            # In this order, so that a block between any two of these lines leaves all as it was.
            self._blocks += 1
            if self._blocks == 1:
                self._stopped = self._stopped or gc.isenabled()
                gc.disable()

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._blocks -= 1
            if self._blocks == 0 and self._stopped:
                self._stopped = False
                gc.enable()

    def _forked(self) -> None:
        """In a child of a fork there is but the thread that forked; what others had begun does not end."""
        self._lock = threading.RLock()
        if self._blocks > 0 and self._stopped:
            gc.enable()
        self._blocks, self._stopped = 0, False


no_collections = _Pause()
