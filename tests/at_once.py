"""Functions that run at the same time."""

import threading


def run_all(*functions):
    """Calls each in a thread of its own, and raises the first error."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    started = [threading.Thread(target=guarded, args=(f,)) for f in functions]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
