"""How many threads, and the memory that is kept."""

import os
import warnings

from . import _core


def set_num_threads(n: int) -> None:
    """Sets how many threads share the work of an update.

    Args:
        n: At least 1. At import it is `OPTIRS_NUM_THREADS`, else the number of CPUs that this process may use. It
            changes the speed, never a result.

    Raises:
        TypeError: If `n` is not an integer.
        ValueError: If it is less than 1, or more than 1024.

    Examples:
        >>> import optirs
        >>> n = optirs.get_num_threads()
        >>> optirs.set_num_threads(1)
        >>> optirs.get_num_threads()
        1
        >>> optirs.set_num_threads(n)
    """
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"set_num_threads: n must be an integer, got {n!r}")
    if not 1 <= n.__index__() <= 1024:
        raise ValueError(f"set_num_threads: n must be between 1 and 1024, got {n}")
    _core.set_num_threads(n.__index__())


def get_num_threads() -> int:
    """How many threads share the work of an update.

    Examples:
        >>> import optirs
        >>> optirs.get_num_threads() >= 1
        True
    """
    return _core.get_num_threads()


def release_memory() -> int:
    """Gives memory that is kept for later steps back to the system.

    Returns:
        How many bytes that was. Nothing that is in use is touched.

    Examples:
        >>> import optirs
        >>> optirs.release_memory() >= 0
        True
    """
    return _core.release_memory()


def _from_environment() -> None:
    text = os.environ.get("OPTIRS_NUM_THREADS", "").strip()
    if not text:
        return
    try:
        set_num_threads(int(text))
    except ValueError:
        warnings.warn(f"OPTIRS_NUM_THREADS must be a number from 1 to 1024, got {text!r}; ignored", stacklevel=3)


_from_environment()
