"""Rows of the data of `train` and `HeldOut`: chosen by position, of whatever container."""

from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import optirs

ROWS = 10
X = np.random.default_rng(0).normal(size=(ROWS, 3))
Y = np.arange(float(ROWS))
RULE = optirs.Descent(0.1)

INDEXES = {
    "permuted": np.random.default_rng(1).permutation(ROWS),
    "reversed": np.arange(ROWS)[::-1],
    "duplicate": [3] * ROWS,
    "of strings": list("jihgfedcba"),
    "of dates": pd.date_range("2026-01-01", periods=ROWS)[::-1],
    "of floats": np.linspace(1, 0, ROWS),
    "of two levels": pd.MultiIndex.from_product([[1, 0], [4, 2, 0, 1, 3]]),
}


def by_label(make: Callable[..., Any]) -> list[Any]:
    return [pytest.param(make(index), id=f"index {name}") for name, index in INDEXES.items()]


CONTAINERS: list[Any] = [
    *by_label(lambda index: (pd.DataFrame(X, index=index, columns=["a", "b", "c"]), pd.Series(Y, index=index))),
    pytest.param((pd.DataFrame(X).astype("Float64"), pd.Series(Y).astype("Int64")), id="extension types"),
    pytest.param((pd.DataFrame(X).to_numpy(), pd.Index(Y)), id="an index"),
    pytest.param((pd.DataFrame(X), pd.array(Y, dtype="Float64")), id="an extension array"),
    *(pytest.param((getattr(sp, kind)(X), Y), id=kind) for kind in ("csr_matrix", "csc_matrix", "dok_matrix")),
    *(
        pytest.param((getattr(sp, kind)(X), sp.csr_array(Y)), id=kind)
        for kind in ("csr_array", "csc_array", "lil_array")
    ),
    pytest.param((X, Y.astype([("y", float)])), id="structured"),
    pytest.param((X.astype(object), Y.astype(np.longdouble)), id="odd types"),
]


def dense(rows: Any) -> Any:
    """As a NumPy array of numbers."""
    if sp.issparse(rows):
        return rows.toarray()
    array = np.asarray(rows)
    return (array["y"] if array.dtype.names else array).astype(float)


def batches(data: Any, **options: Any) -> list[Any]:
    """The batches that a gradient function gets."""
    seen: list[Any] = []

    def gradient(model: Any, *batch: Any) -> tuple[float, Any]:
        seen.append(batch)
        return 1.0, None

    optirs.train(gradient, {"w": np.zeros(2)}, data, RULE, **options)
    return seen


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [None, 4, 1, 20])
@pytest.mark.parametrize("data", CONTAINERS)
def test_batches_are_those_of_the_arrays(data: Any, batch_size: int | None, shuffle: bool) -> None:
    options: dict[str, Any] = {"batch_size": batch_size, "shuffle": shuffle, "rng": 5 if shuffle else None, "epochs": 2}
    found, expected = batches(data, **options), batches((X, Y), **options)
    assert len(found) == len(expected)
    for batch, rows in zip(found, expected, strict=True):
        for part, wanted, whole in zip(batch, rows, data, strict=True):
            assert type(part) is type(whole)
            np.testing.assert_array_equal(dense(part), wanted)


def test_a_row_keeps_its_label() -> None:
    data = (pd.Series(Y, index=INDEXES["of strings"]),)
    assert [list(part.index) for (part,) in batches(data, batch_size=4)] == [list("jihg"), list("fedc"), list("ba")]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("index", INDEXES)
def test_supervised_reads_tables(index: str, shuffle: bool) -> None:
    model = optirs.Dense.glorot(3, ROWS, rng=optirs.Xoshiro(1))
    options: dict[str, Any] = {"batch_size": 4, "shuffle": shuffle, "epochs": 2, "log_every": 1}
    gradient, y = optirs.supervised(optirs.crossentropy), Y.astype(int)
    tables = pd.DataFrame(X, index=INDEXES[index]), pd.Series(y, index=INDEXES[index])
    found = optirs.train(gradient, model, tables, RULE, rng=5 if shuffle else None, **options)
    expected = optirs.train(gradient, model, (X, y), RULE, rng=5 if shuffle else None, **options)
    np.testing.assert_array_equal(found.history, expected.history)
    assert found.history.logged == expected.history.logged


def test_held_out_rows() -> None:
    seen: list[Any] = []
    table = pd.DataFrame(X, index=INDEXES["permuted"])

    def loss(model: Any, x: Any) -> float:
        seen.append(x)
        return float(x.to_numpy().mean())

    value, _ = optirs.HeldOut(loss, (table,), batch_size=4).evaluate(None)
    assert value == pytest.approx(X.mean())
    np.testing.assert_array_equal(pd.concat(seen), table)


class Stored:
    """Rows in a file: read by slices and, as of HDF5, by numbers in ascending order."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape = array, array.shape

    def __getitem__(self, at: Any) -> np.ndarray:
        if isinstance(at, np.ndarray) and (np.diff(at) <= 0).any():
            raise TypeError("Indexing elements must be in increasing order")
        return self.array[at]


class Sliced(Stored):
    def __getitem__(self, at: Any) -> np.ndarray:
        if not isinstance(at, slice):
            raise IndexError("slices only")
        return self.array[at]


class Table(Stored):
    """Columns by name."""

    def __getitem__(self, at: Any) -> np.ndarray:
        raise KeyError(at)


class Squeezed(Stored):
    """Row numbers mean something else here."""

    def __getitem__(self, at: Any) -> np.ndarray:
        return self.array[at] if isinstance(at, slice) else self.array[at][:1]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_what_stands_for_a_file_is_read_as_it_goes(batch_size: int | None, shuffle: bool) -> None:
    options: dict[str, Any] = {"batch_size": batch_size, "shuffle": shuffle, "rng": 5 if shuffle else None, "epochs": 2}
    for (found,), (expected,) in zip(batches((Stored(X),), **options), batches((X,), **options), strict=True):
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, expected)
    assert len(batches((Sliced(X),), batch_size=4)) == 3


def generated() -> Iterator[int]:
    yield from range(ROWS)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "must be an array, got NoneType"),
        ("a text", "must be an array, got str"),
        (b"bytes", "must be an array, got bytes"),
        ({"a": X}, r"must be an array, got dict: name its arrays one by one, \(d\['a'\], d\['b'\], y\)"),
        (UserDict(a=X), "must be an array, got UserDict: name its arrays one by one"),
        ({1, 2}, "must be an array, got set"),
        (generated(), "must be an array, got generator"),
        (object(), "must be an array, got object"),
        (np.ndarray, "must be an array, got ndarray"),
        ([[1.0], [1.0, 2.0]], "must be an array, got list, of which NumPy makes none: .*inhomogeneous"),
        (
            sp.coo_matrix(X),
            r"is coo_matrix, whose rows .* by position \(.*\): convert it, such as .tocsr",
        ),
        (sp.dia_array(X), r"is dia_array, whose rows cannot be chosen by position \(.*\): convert it, such as .tocsr"),
        (
            sp.bsr_array(X),
            r"is bsr_array, .*by position \(NotImplementedError\): convert it, such as .tocsr",
        ),
        (Table(X), r"is Table, whose rows cannot be chosen by position \(KeyError: .*\): convert it, such as numpy"),
        (Sliced(X), r"is Sliced, whose rows .* row numbers, as shuffle=True does \(IndexError: slices only\)"),
        (Squeezed(X), r"is Squeezed, whose rows .* row numbers.* \(TypeError: asked for 2, it gave 1\)"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_what_has_no_rows_by_position_is_named(place: int, value: Any, text: str) -> None:
    data = [X, X]
    data[place] = value
    with pytest.raises(TypeError, match=rf"^train: data\[{place}\] {text}"):
        batches(tuple(data), batch_size=4, shuffle=True)
    if not isinstance(value, Sliced | Squeezed):
        with pytest.raises(TypeError, match=rf"^HeldOut: data\[{place}\] {text}"):
            optirs.HeldOut(len, tuple(data), batch_size=4)


class Shapeless:
    def __init__(self, shape: Any) -> None:
        self.shape = shape


@pytest.mark.parametrize("shape", [None, 3, (None, 3), (float("nan"), 3)])
def test_a_shape_without_a_number_of_rows(shape: Any) -> None:
    with pytest.raises(TypeError, match=r"^train: data\[1\] (is|must be an array, got) Shapeless"):
        batches((X, Shapeless(shape)))


@pytest.mark.parametrize("other", [pd.Series(Y[:9]), sp.csr_matrix(X[:9]), Y[:9].tolist(), range(9)])
def test_different_numbers_of_rows(other: Any) -> None:
    with pytest.raises(ValueError, match=r"train: data\[0\] has 10 rows, data\[1\] has 9"):
        batches((pd.DataFrame(X), other))


@pytest.mark.parametrize("shuffle", [False, True])
def test_lists_and_ranges_become_arrays(shuffle: bool) -> None:
    for values in (list(range(ROWS)), range(ROWS), [[i, i] for i in range(ROWS)]):
        parts = [part for (part,) in batches((values,), batch_size=4, shuffle=shuffle, rng=5 if shuffle else None)]
        assert all(type(part) is np.ndarray for part in parts)
        rows = np.concatenate(parts)
        np.testing.assert_array_equal(np.sort(rows, axis=0), np.asarray(values))
        assert shuffle == (rows != np.asarray(values)).any()


@pytest.mark.parametrize("data", [pd.DataFrame(X), pd.Series(Y), sp.csr_matrix(X), UserDict(a=X)])
def test_a_container_alone_is_no_iterable_of_batches(data: Any) -> None:
    with pytest.raises(TypeError, match="train: data must be a tuple of arrays"):
        batches(data)


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: x.tolist(), lambda x: {"x": x}, lambda x: (x, x), pd.DataFrame]
)
def test_batches_count_by_their_rows(wrap: Callable[[Any], Any]) -> None:
    """Of whatever kind they are, the mean over them is that over all rows."""
    seen = iter([1.0, 4.0])
    data = [(wrap(X[:9]),), (wrap(X[9:]),)]
    assert optirs.HeldOut(lambda model, x: next(seen), data).evaluate(None)[0] == pytest.approx(1.3)


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("library", ["torch", "jax.numpy"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_tensors(library: str, shuffle: bool) -> None:
    module = pytest.importorskip(library)
    options: dict[str, Any] = {"batch_size": 4, "shuffle": shuffle, "rng": 5 if shuffle else None, "epochs": 2}
    data = (module.asarray(X.astype("f")), module.asarray(Y.astype("f")))
    for found, expected in zip(
        batches(data, **options), batches((X.astype("f"), Y.astype("f")), **options), strict=True
    ):
        for part, wanted, whole in zip(found, expected, data, strict=True):
            assert isinstance(part, type(whole))
            np.testing.assert_array_equal(np.asarray(part), wanted)
