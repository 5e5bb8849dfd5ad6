"""Models as flat vectors, for `scipy.optimize` and the like."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._rounding import cast, store
from ..rules import Descent
from .tensors import inside
from .ties import origins, parameters_here

Array = NDArray[Any]


def destructure(model: Any) -> tuple[Array, "Restructure"]:
    """The trainable values of `model` as one vector, and the way back.

    Args:
        model: A tree of arrays.

    Returns:
        `(flat, restructure)`: a 1-d copy of all trainables in C order, tied ones once, in the type to which theirs
        promote; and a `Restructure`: `restructure(flat)` is a model with those values, `restructure.gradient(grad)` the
        vector of a gradient tree. In a function that `with_autograd`, `with_jax` or `with_torch` calls, `flat` is a
        tensor of that library, and it differentiates through both.

    Raises:
        ValueError: If two parameters share elements without being tied.

    Examples:
        >>> import numpy as np, optirs
        >>> flat, restructure = optirs.destructure({"W": np.ones((2, 2)), "b": np.zeros(1)})
        >>> flat
        array([1., 1., 1., 1., 0.])
        >>> restructure(2 * flat)["W"].shape, len(restructure)
        ((2, 2), 5)
        >>> restructure.gradient({"b": [3.0]})
        array([0., 0., 0., 0., 3.])

    As `Optimisers.destructure` in Julia, `jax.flatten_util.ravel_pytree`, `torch.nn.utils.parameters_to_vector`.
    """
    restructure = Restructure(model)
    if restructure._call is not None:
        return restructure._call.concatenated(restructure._arrays), restructure
    with _core.Pinned("destructure: an array of the model", *restructure._arrays):
        parts = [np.ravel(array) for array in restructure._arrays]
        flat = np.concatenate([np.empty(0, restructure._dtype), *parts], dtype=restructure._dtype)
    return flat, restructure


class Restructure:
    """Makes models of flat vectors; see `destructure`."""

    def __init__(self, model: Any) -> None:
        _, found, index = parameters_here(model)
        # The call of a bridge that the tensors belong to.
        self._call = None if all(isinstance(p.array, np.ndarray) for p in found) else inside()
        # Those of NumPy without what their classes make of its functions.
        self._arrays = [np.asarray(p.array) if self._call is None else p.array for p in found]
        self._leaves, self._origins = origins(model, found)
        # A copy of the structure: what is done to the model later does not matter here.
        self._model = _core.unflatten(model, self._leaves, True, False)
        sizes = [math.prod(array.shape) for array in self._arrays]
        self._ends = np.cumsum(sizes, dtype=int)
        self._starts = self._ends - np.array(sizes, int)
        self._is_complex = any("complex" in str(array.dtype) for array in self._arrays)
        if self._call is None:
            descent = Descent()
            made = _core.make_leaves([(descent, p.array, p.path) for p in found])
            self._state = _core.unflatten(model, [None if i is None else made[i] for i in index], False, True)
            self._dtype = _promoted([a.dtype for a in self._arrays])
            self._wide = [_computed(a.dtype) for a in self._arrays]

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._arrays else 0

    def __call__(self, flat: Any) -> Any:
        """A model with the values of `flat`, in new arrays of the original shapes, types and memory orders, ties kept.

        In a function that a bridge calls, a tensor gives a model of tensors.

        Raises:
            ValueError: If `flat` is not 1-d, or of another length.
            TypeError: If it is not of numbers, or complex while the model is real.
        """
        call = inside()
        if call is None or not call.is_numeric(flat):
            call, flat = self._call, _numbers(flat)
        filled, transposed = (_filled, np.transpose) if call is None else (call.shaped, call.transposed)
        parts = zip(self._starts, self._ends, self._arrays, strict=True)
        with _core.Pinned("restructure: the vector", flat):
            self._check(flat)
            arrays = [filled(flat[start:end], like) for start, end, like in parts]
        # Each transpose once, as what stands twice holds one and the same.
        transposes = {i: transposed(arrays[i]) for i in {o[0] for o in self._origins if o is not None and o[1]}}
        values = [
            leaf if origin is None else (transposes if origin[1] else arrays)[origin[0]]
            for leaf, origin in zip(self._leaves, self._origins, strict=True)
        ]
        return _core.unflatten(self._model, values, True, False)

    def gradient(self, gradient: Any) -> Array:
        """The flat vector of a gradient tree: tied places summed, zero where there is none.

        Its type is that of the flat model; float32 where that is of 16 bits, as everywhere a gradient is computed with.

        Raises:
            TypeError: As `update`.
            ValueError: As `update`.
        """
        if self._call is not None:
            raise TypeError(
                "restructure.gradient takes gradients of NumPy's arrays, and this model is one of tensors: let the "
                "library differentiate by the vector, through restructure(flat)"
            )
        found = _core.gradients(self._state, self._model, gradient)
        dtype, what = _computed(self._dtype), "restructure.gradient: a gradient"
        with _core.Pinned(what, *found):
            parts = [
                np.zeros(like.size, wide) if g is None else cast(what, np.ravel(g), wide)
                for g, like, wide in zip(found, self._arrays, self._wide, strict=True)
            ]
            return np.concatenate([np.empty(0, dtype), *parts], dtype=dtype)

    def _check(self, flat: Any) -> None:
        """Raises unless this vector, or tensor, fits."""
        if tuple(flat.shape) != (len(self),):
            raise ValueError(f"restructure takes a vector of length {len(self)}, got shape {tuple(flat.shape)}")
        if "complex" in str(flat.dtype) and not self._is_complex:
            raise TypeError(f"restructure takes real numbers, got {flat.dtype}")


def _numbers(flat: Any) -> Array:
    array: Array = _core.as_plain("restructure: the vector", flat)
    if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
        raise TypeError(f"restructure takes numbers, got {array.dtype}")
    return array


def _filled(values: Array, like: Array) -> Array:
    """A new array like `like` with these values in C order."""
    new = np.empty_like(like, subok=False)
    store((values if new.dtype.kind == "c" else values.real).reshape(like.shape), new)
    return new


def _promoted(dtypes: list[np.dtype[Any]]) -> np.dtype[Any]:
    """The type to which all promote; float16 and bfloat16, between which NumPy knows none, to float32."""
    if not dtypes:
        return np.dtype(np.float64)
    if len({d.name for d in dtypes} & {"float16", "bfloat16"}) == 2:
        dtypes = list(map(_computed, dtypes))
    return np.result_type(*dtypes)


def _computed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which values of this one are computed: float32 for those of 16 bits."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype
