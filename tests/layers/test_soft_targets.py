"""Rows of probabilities as targets of `crossentropy`: how far from 1 their sums may be rounded."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import optirs

TYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


def teacher(batch: int, classes: int, scale: float) -> np.ndarray:
    z = scale * np.random.default_rng(classes).normal(size=(batch, classes))
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
@pytest.mark.parametrize(("batch", "classes"), [(200, 2), (200, 10), (50, 1000), (4, 100_000)])
def test_probabilities_rounded_to_their_type(dtype: Any, scale: float, batch: int, classes: int) -> None:
    p = teacher(batch, classes, scale).astype(dtype)
    z = np.random.default_rng(0).normal(size=(batch, classes)).astype(np.float32)
    wide = z.astype(float) - z.max(axis=1, keepdims=True)
    expected = p.astype(float) * (np.log(np.exp(wide).sum(axis=1, keepdims=True)) - wide)
    assert optirs.crossentropy(z, p) == pytest.approx(expected.sum(axis=1).mean(), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("classes", [3, 10, 100])
def test_labels_smoothed_in_their_own_type(dtype: Any, classes: int) -> None:
    one_hot = np.eye(classes).astype(dtype)
    smooth = (one_hot * dtype(0.9) + dtype(0.1) / dtype(classes)).astype(dtype)
    assert np.isfinite(optirs.crossentropy(np.zeros((classes, classes)), smooth))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("classes", [2, 10, 1000, 100_000])
@pytest.mark.parametrize("total", [0.5, 0.9, 1.1, 2.0])
def test_rows_that_are_no_probabilities(dtype: Any, classes: int, total: float) -> None:
    p = teacher(3, classes, 0.5)
    p[1] *= total / max(1.0, total * p[1].max())
    z = np.zeros((3, classes), np.float32)
    with pytest.raises(ValueError, match=r"row 1 of the one-hot targets sums to .*, not to 1 within 0\.0"):
        optirs.crossentropy(z, p.astype(dtype))
    x, model = np.zeros((3, 1), np.float32), optirs.Affine(np.zeros((classes, 1)), np.zeros(classes))
    with pytest.raises(ValueError, match="row 1 of the one-hot targets"):
        optirs.supervised(optirs.crossentropy)(model, x, p.astype(dtype))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("wrong", [-0.01, 1.01, np.nan, np.inf])
def test_entries_that_are_no_probabilities(dtype: Any, wrong: float) -> None:
    p = np.array([[0.5, 0.5], [wrong, 1 - wrong]])
    with pytest.raises(ValueError, match=r"targets must lie in \[0, 1\], got .* at y\[1, 0\]"):
        optirs.crossentropy(np.zeros((2, 2)), p.astype(dtype))


def test_a_sum_of_shares_may_be_rounded_up() -> None:
    above = np.nextafter(1.0, 2.0)
    assert optirs.crossentropy([[0.0, 0.0]], [[above, 0.0]]) == pytest.approx(np.log(2), rel=1e-15)
    assert optirs.binary_crossentropy([[0.0]], [[above]]) == pytest.approx(np.log(2), rel=1e-15)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_the_gradient_is_that_of_the_loss(dtype: Any) -> None:
    """Also where a row sums to 1 only roughly."""
    p = teacher(4, 10, 3.0).astype(dtype)
    assert np.abs(p.astype(float).sum(axis=1) - 1).max() > 1e-4
    z = np.random.default_rng(1).normal(size=p.shape).astype(np.float32)
    _, gradient = optirs.crossentropy.pullback(z, p)
    assert gradient.dtype == np.float32
    wide, expected = z.astype(float), np.zeros(p.shape)
    for at in np.ndindex(p.shape):
        up, down = wide.copy(), wide.copy()
        up[at] += 1e-5
        down[at] -= 1e-5
        expected[at] = (optirs.crossentropy(up, p) - optirs.crossentropy(down, p)) / 2e-5
    np.testing.assert_allclose(gradient, expected, atol=2e-8)
