"""A progress bar, where there is a terminal and `rich` to draw it."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """A bar over the steps of a training; without a terminal, or if not wanted, nothing at all."""

    def __init__(self, wanted: bool, epochs: int, steps: int | None) -> None:
        self._bar: Any = _bar() if wanted and sys.stderr is not None and sys.stderr.isatty() else None
        self._epochs = epochs
        self._total = None if steps is None else epochs * steps

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("training", total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, epoch: int, loss: float, steps: int = 1) -> None:
        """So many more steps are done, the last one with this loss."""
        if self._bar is not None:
            text = f"epoch {epoch}/{self._epochs}, loss {loss:.8g}"
            self._bar.update(self._task, advance=steps, description=text)


def _bar() -> Any:
    try:
        from rich.console import Console
        from rich.progress import Progress as Bar
    except ImportError as error:
        raise ImportError("train: the progress bar needs rich: pip install 'optirs[progress]'") from error
    return Bar(console=Console(stderr=True))
