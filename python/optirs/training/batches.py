"""Mini-batches: from arrays of equal length, or from whatever gives batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .._core import refuse_masked
from .rows import Take, all_rows, count_rows, taker, with_rows

Batch = tuple[Any, ...]


class Batches(Protocol):
    """A source of batches: one epoch is `epoch()`, `ordered()` gives the same data without shuffling."""

    def epoch(self) -> Iterator[Batch]: ...
    def ordered(self) -> Iterator[Batch]: ...
    def steps(self) -> int | None: ...


@dataclass
class ArrayBatches:
    """Rows of arrays with the same first dimension, `batch_size` at a time, the last batch being what is left."""

    arrays: Batch
    takes: tuple[Take, ...]
    """What takes rows of each array; none where a batch is all rows, in order."""
    rows: int
    batch_size: int
    rng: np.random.Generator | None

    def epoch(self) -> Iterator[Batch]:
        if self.rng is None:
            return self.ordered()
        return self._shuffled(self.rng.permutation(self.rows))

    def ordered(self) -> Iterator[Batch]:
        if self.batch_size >= self.rows:
            yield self.arrays
            return
        for start in range(0, self.rows, self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield tuple(take(rows) for take in self.takes)

    def _shuffled(self, order: Any) -> Iterator[Batch]:
        for start in range(0, self.rows, self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield tuple(take(chosen) for take in self.takes)

    def steps(self) -> int | None:
        return -(-self.rows // self.batch_size)


@dataclass
class IterableBatches:
    """An iterable that is read anew each epoch; a batch that is no tuple or list is one argument."""

    source: Iterable[Any]
    who: str = "train"

    def epoch(self) -> Iterator[Batch]:
        empty = True
        for batch in self.source:
            empty = False
            parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
            for i, part in enumerate(parts):
                refuse_masked(f"{self.who}: batch[{i}]", part)
            yield parts
        if empty:
            raise ValueError(f"{self.who}: data gave no batch{': ' + ONCE if _is_iterator(self.source) else ''}")

    ordered = epoch

    def steps(self) -> int | None:
        try:
            return len(self.source)  # type: ignore[arg-type]
        except TypeError:
            return None


ONCE = "an iterator can be read once only; give a list, or an object whose __iter__ starts afresh"


def _is_iterator(data: Any) -> bool:
    """Whether `data` gives its batches once. Only what has a `__next__` is asked: to others, `iter` may be work."""
    return isinstance(data, Iterator) and iter(data) is data


def batches(
    data: Any,
    batch_size: int | None,
    shuffle: bool = False,
    rng: Any = None,
    readings: int | None = None,
    who: str = "train",
) -> Batches:
    """The source of batches for the arguments of `train`, which goes through them so many times.

    None stands for at every evaluation. `who` has the word in errors.
    """
    # Making one from the system's entropy takes as long as many steps of a small model.
    generator = _generator(rng) if shuffle or rng is not None else None
    if isinstance(data, tuple):
        return _of_arrays(data, batch_size, generator if shuffle else None, who)
    if hasattr(data, "shape") or isinstance(data, (Mapping, str)) or not isinstance(data, Iterable):
        kind = type(data).__name__
        raise TypeError(f"{who}: data must be a tuple of arrays, such as (x, y), or an iterable of batches, got {kind}")
    if batch_size is not None or shuffle:
        name = "batch_size" if batch_size is not None else "shuffle"
        raise ValueError(f"{who}: {name} needs data to be a tuple of arrays; an iterable gives its own batches")
    if (readings is None or readings > 1) and _is_iterator(data):
        when = "at every evaluation" if readings is None else f"{readings} times, once an epoch and once a log"
        raise ValueError(f"{who}: data is read {when}: {ONCE}")
    return IterableBatches(data, who)


def _generator(rng: Any) -> np.random.Generator:
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        wanted = "train: rng must be a numpy.random.Generator or a seed for one"
        if isinstance(error, ValueError):
            raise ValueError(f"{wanted}, got {rng!r}") from error
        raise TypeError(f"{wanted}, got {type(rng).__name__}") from error


def _of_arrays(data: Batch, batch_size: int | None, rng: np.random.Generator | None, who: str) -> ArrayBatches:
    plain = all(type(array) is np.ndarray and array.ndim for array in data)  # as nearly always: nothing to be found out
    names = [f"{who}: data[{index}]" for index in range(len(data))]
    arrays = data if plain else tuple(map(with_rows, names, data))
    counts = list(map(len, arrays)) if plain else list(map(count_rows, names, arrays))
    rows = _common_rows(who, counts)
    if batch_size is None or batch_size >= rows:
        arrays, batch_size = arrays if plain else tuple(map(all_rows, arrays)), rows
        if rng is None:
            return ArrayBatches(arrays, (), rows, rows, None)
    takes = tuple(taker(name, array, rows, rng is not None) for name, array in zip(names, arrays, strict=True))
    return ArrayBatches(arrays, takes, rows, batch_size, rng)


def _common_rows(who: str, counts: list[int]) -> int:
    if not counts:
        raise ValueError(f"{who}: data is an empty tuple")
    for index, count in enumerate(counts):
        if count != counts[0]:
            raise ValueError(f"{who}: data[0] has {counts[0]} rows, data[{index}] has {count}")
    if counts[0] == 0:
        raise ValueError(f"{who}: data has no rows")
    return counts[0]


def rows_of(batch: Batch) -> int:
    """How much a batch counts in a mean over batches: its rows, or 1 where it has none."""
    first: Any = batch
    while isinstance(first, (tuple, Mapping)):  # of several inputs, the first
        first = next(iter(first.values() if isinstance(first, Mapping) else first), None)
    if isinstance(first, list):
        return len(first)
    shape: Any = getattr(first, "shape", ())
    return int(shape[0]) if len(shape) > 0 else 1


def mean_over(source: Batches, function: Callable[..., float]) -> float:
    """The mean of `function(*batch)` over the batches, each counting by its rows."""
    total, rows = 0.0, 0
    for batch in source.ordered():
        total += float(function(*batch)) * rows_of(batch)
        rows += rows_of(batch)
    return total / rows if rows else 0.0
