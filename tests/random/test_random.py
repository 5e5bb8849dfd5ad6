"""optirs.Xoshiro against Julia's printed numbers, and as a citizen of Python."""

import copy
import hashlib
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import optirs

# Values of the Optimisers.jl notebook run on Julia 1.8.2, seeds 12345 and 54321; the bias and the inputs are derived
# from the description of the generator that reproduces all printed ones.
TRUTH_W = [
    [0.9974729418754578, 0.3247656226158142, 0.07895433902740479],
    [0.9447905421257019, 0.8668948411941528, 0.3396114706993103],
]
TRUTH_B = [0.07435727119445801, 0.13611650466918945]
MODEL_W = [
    [0.660201370716095, 0.021914899349212646, 0.692833662033081],
    [0.03004688024520874, 0.7284784913063049, 0.2149403691291809],
]
MODEL_B = [0.6305122971534729, 0.686010479927063]
X_FIRST = [0.44303280115127563, 0.7966291904449463, 0.0935354232788086]
X_LAST = [0.24718737602233887, 0.3564792275428772, 0.4933692216873169]

MASK = (1 << 64) - 1


class Reference:
    """The generator in plain Python, word by word, from its description."""

    FORK = (0x02011CE34BCE797F, 0x5A94851FB48A6E05, 0x3688CF5D48899FA7, 0x867B4BB4C42E5661)

    def __init__(self, seed: int | None = None, state: list[int] | None = None) -> None:
        if seed is not None:
            words = max(1, (seed.bit_length() + 31) // 32)
            digest = hashlib.sha256(seed.to_bytes(4 * words, "little")).digest()
            state = [int.from_bytes(digest[8 * k : 8 * k + 8], "little") for k in range(4)]
        assert state is not None
        self.state = state

    def word(self) -> int:
        s0, s1, s2, s3 = self.state
        total = (s0 + s3) & MASK
        result = ((((total << 23) | (total >> 41)) & MASK) + s0) & MASK
        u = (s1 << 17) & MASK
        s2 ^= s0
        s3 ^= s1
        s1 ^= s2
        s0 ^= s3
        s2 ^= u
        s3 = ((s3 << 45) | (s3 >> 19)) & MASK
        self.state = [s0, s1, s2, s3]
        return result

    def rand(self, count: int, dtype: str) -> list[float]:
        size = count * np.dtype(dtype).itemsize
        words: list[int] = []
        if size >= 64:
            forked = [[(factor * self.word()) & MASK for _ in range(8)] for factor in self.FORK]
            lanes = [Reference(state=[row[k] for row in forked]) for k in range(8)]
            for _ in range(size // 64):
                words += [lane.word() for lane in lanes]
        while 8 * len(words) < size:
            words.append(self.word())
        if dtype == "float64":
            return [(word >> 11) * 2.0**-53 for word in words]
        halves = [half for word in words for half in (word & 0xFFFFFFFF, word >> 32)]
        return [(half >> 8) * 2.0**-24 for half in halves[:count]]


def test_scalars_of_julias_manual() -> None:
    rng = optirs.Xoshiro(1234)
    drawn = [rng.rand(dtype="float64"), rng.rand(dtype="float64")]
    assert drawn == [0.32597672886359486, 0.5490511363155669]


def test_the_draws_of_the_notebook() -> None:
    rng = optirs.Xoshiro(12345)
    np.testing.assert_array_equal(rng.rand(2, 3), np.float32(TRUTH_W))
    np.testing.assert_array_equal(rng.rand(2), np.float32(TRUTH_B))
    x = rng.rand(3, 100)
    np.testing.assert_array_equal(x[:, 0], np.float32(X_FIRST))
    np.testing.assert_array_equal(x[:, 99], np.float32(X_LAST))
    rng = optirs.Xoshiro(54321)
    np.testing.assert_array_equal(rng.rand(2, 3), np.float32(MODEL_W))
    np.testing.assert_array_equal(rng.rand(2), np.float32(MODEL_B))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 15, 16, 17, 24, 33, 100, 1001])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**64, 3**200])
def test_every_size_follows_the_description(seed: int, count: int, dtype: str) -> None:
    rng, reference = optirs.Xoshiro(seed), Reference(seed)
    drawn = rng.rand(count, dtype=dtype)
    assert drawn.dtype == dtype
    assert drawn.tolist() == reference.rand(count, dtype)
    assert list(rng.state) == reference.state


@given(st.integers(0, 2**300), st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_arrays_fill_column_by_column(seed: int, shape: list[int]) -> None:
    drawn = optirs.Xoshiro(seed).rand(*shape)
    flat = optirs.Xoshiro(seed).rand(int(np.prod(shape)))
    assert drawn.flags.c_contiguous
    assert drawn.shape == tuple(shape)
    np.testing.assert_array_equal(drawn.ravel(order="F"), flat)


def test_a_scalar_takes_the_high_half_of_its_word() -> None:
    word = Reference(7).word()
    scalar = optirs.Xoshiro(7).rand()
    assert isinstance(scalar, np.float32)
    assert scalar == np.float32((word >> 40) * 2.0**-24)
    assert isinstance(optirs.Xoshiro(7).rand(dtype=np.float64), np.float64)


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("f4"), "f"])
def test_spellings_of_the_dtype(dtype: object) -> None:
    np.testing.assert_array_equal(optirs.Xoshiro(3).rand(5, dtype=dtype), optirs.Xoshiro(3).rand(5))


def test_integers_of_numpy_seed_and_shape() -> None:
    assert optirs.Xoshiro(np.uint8(200)) == optirs.Xoshiro(200)
    assert optirs.Xoshiro(1).rand(np.int64(4)).shape == (4,)


@pytest.mark.parametrize("seed", [-1, -(2**70), np.int64(-3)])
def test_negative_seeds(seed: int) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        optirs.Xoshiro(seed)


@pytest.mark.parametrize("seed", [1.0, "1", None, True, np.float32(2), [1]])
def test_seeds_that_are_no_integers(seed: object) -> None:
    with pytest.raises(TypeError, match="seed must be an integer"):
        optirs.Xoshiro(seed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "dtype", "error"),
    [
        ((-1,), "float32", ValueError),
        ((2, -3), "float64", ValueError),
        ((1.5,), "float32", TypeError),
        (((2, 3),), "float32", TypeError),
        ((2,), "int32", TypeError),
        ((2,), ">f4", TypeError),
        ((2,), "float33", TypeError),
        ((10**30,), "float32", ValueError),
        ((2**62,), "float32", ValueError),
    ],
)
def test_bad_arguments_draw_nothing(shape: tuple[int, ...], dtype: str, error: type[Exception]) -> None:
    rng = optirs.Xoshiro(1)
    before = rng.state
    with pytest.raises(error):
        rng.rand(*shape, dtype=dtype)
    assert rng.state == before


def test_the_state_can_be_kept_and_set() -> None:
    rng = optirs.Xoshiro(5)
    state = rng.state
    assert len(state) == 4
    assert all(type(word) is int for word in state)
    first = rng.rand(50)
    rng.state = state
    np.testing.assert_array_equal(rng.rand(50), first)
    rng.state = [1, 2, 3, 2**64 - 1]  # type: ignore[assignment]
    assert rng.state == (1, 2, 3, 2**64 - 1)


@pytest.mark.parametrize("state", [(1, 2, 3), (1, 2, 3, -1), (1, 2, 3, 2**64), (0, 0, 0, 0), (1.0, 2, 3, 4), None])
def test_states_that_are_none(state: object) -> None:
    rng = optirs.Xoshiro(5)
    with pytest.raises(ValueError, match="four integers"):
        rng.state = state  # type: ignore[assignment]
    assert rng == optirs.Xoshiro(5)


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, optirs.Xoshiro.copy, lambda r: pickle.loads(pickle.dumps(r))]
)
def test_copies_go_their_own_way(duplicate: object) -> None:
    rng = optirs.Xoshiro(9)
    rng.rand(3)
    twin = duplicate(rng)  # type: ignore[operator]
    assert twin == rng
    assert rng == rng
    np.testing.assert_array_equal(twin.rand(20), rng.rand(20))
    twin.rand()
    assert twin != rng
    assert rng != "a string"


def test_mutable_hence_not_hashable() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(optirs.Xoshiro(1))
    assert repr(optirs.Xoshiro(1)).startswith("<Xoshiro state=(0x")


def test_threads_share_a_generator_without_losing_a_draw() -> None:
    rng, drawn = optirs.Xoshiro(2), []
    threads = [
        threading.Thread(target=lambda: drawn.extend(rng.rand(10, dtype="float64").tolist() for _ in range(50)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = optirs.Xoshiro(2)
    expected = [alone.rand(10, dtype="float64").tolist() for _ in range(200)]
    assert sorted(drawn) == sorted(expected)
