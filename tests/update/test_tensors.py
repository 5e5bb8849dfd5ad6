"""Gradients that are tensors of PyTorch or arrays of JAX, on the CPU, given to `update` as they are (`make peers`)."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

import optirs
from optirs._gradient import converted

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]

REAL = ("float16", "bfloat16", "float32", "float64")
COMPLEX = ("complex64", "complex128")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def jnp():
    return pytest.importorskip("jax.numpy")


def dtype(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def stepped(gradient, x, rule=None):
    model = [x]
    state = optirs.setup(rule or optirs.Descent(0.5), model)
    pure = optirs.update(state, model, [gradient])[1][0]
    model = [x.copy()]
    in_place = optirs.update_(optirs.setup(rule or optirs.Descent(0.5), model), model, [gradient])[1][0]
    np.testing.assert_array_equal(pure, in_place)
    return pure


def shared(gradient, name, shape):
    """The array that `update` makes of a gradient of this type and shape."""
    kind = dtype(name)
    return converted(gradient, np.dtype("float32") if kind.itemsize == 2 else kind, kind, shape, False)


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("param", ["float16", "bfloat16"])
def test_float32_tensors_are_not_rounded_for_16_bit_parameters(torch, jnp, param):
    g = np.array([3e5, -1e-9], np.float32)
    x = np.array([1.0, 2.0], dtype(param))
    expected = stepped(g, x, optirs.MixedPrecision(optirs.Adam(0.1, epsilon=1e-20)))
    np.testing.assert_array_equal(expected, np.array([0.9, 2.1], x.dtype))
    for tensor in (torch.from_numpy(g), torch.from_numpy(g).double(), jnp.asarray(g)):
        new = stepped(tensor, x, optirs.MixedPrecision(optirs.Adam(0.1, epsilon=1e-20)))
        np.testing.assert_array_equal(new, expected)
    for kind in ("float32", param):
        tensor = torch.tensor([1.0, 2.0], dtype=getattr(torch, kind))
        assert address(shared(tensor, param, (2,))) == tensor.data_ptr()


@pytest.mark.parametrize("name", REAL + COMPLEX)
@pytest.mark.parametrize("param", REAL + COMPLEX)
def test_torch_tensors_of_any_type(torch, name, param):
    if name in COMPLEX and param not in COMPLEX:
        with pytest.raises(TypeError, match=rf"gradient at \[0\] has type {name}, the parameter is {param}"):
            stepped(torch.ones(3, dtype=getattr(torch, name)), np.ones(3, dtype(param)))
        return
    for requires_grad in (False, True):
        g = torch.tensor([1.0, 2.0, -4.0], dtype=getattr(torch, name), requires_grad=requires_grad)
        new = stepped(g, np.ones(3, dtype(param)))
        assert new.dtype == dtype(param)
        np.testing.assert_array_equal(new.astype("complex64"), [0.5, 0, 3])


@pytest.mark.parametrize("name", REAL + COMPLEX)
def test_torch_tensors_are_not_copied(torch, name):
    for g in (torch.ones(6, dtype=getattr(torch, name)), torch.ones(6, dtype=getattr(torch, name)).requires_grad_()):
        assert address(shared(g, name, (6,))) == g.data_ptr()
    g = torch.ones(4, 6, dtype=getattr(torch, name)).T[::2]
    array = shared(g, name, (3, 4))
    assert (address(array), array.strides) == (g.data_ptr(), tuple(s * g.element_size() for s in g.stride()))


def test_memory_stays_where_it_is(torch, jnp):
    """Of a gradient of 16 MB, less than a tenth is allocated, in Python's or NumPy's memory or in ours."""
    x = np.zeros((2000, 1000))
    state = optirs.setup(optirs.Descent(0.5), [x])
    import jax

    with jax.enable_x64(True):
        of_jax = jnp.ones((2000, 1000))
    for g in (torch.ones(2000, 1000, dtype=torch.float64), of_jax):
        optirs.update_(state, [x], [g])
        tracemalloc.start()
        optirs.update_(state, [x], [g])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < x.nbytes / 10
    np.testing.assert_array_equal(x, -2)


def test_torch_layouts(torch):
    base = torch.arange(24.0).reshape(4, 6)
    x = np.zeros((3, 2), "f")
    for g in (base[:3, :2], base.T[:3, ::2], base[::1, 1::3][1:], base[0, 0].expand(3, 2), base.flip(0)[:3, :2]):
        np.testing.assert_array_equal(stepped(g, x), -0.5 * g.numpy())
    np.testing.assert_array_equal(stepped(torch.tensor(4.0), np.array(1.0)), -1)
    assert stepped(torch.empty(0, 3), np.empty((0, 3))).shape == (0, 3)


def test_torch_tensors_with_pending_signs(torch):
    z = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex64)
    assert z.conj().is_conj()
    np.testing.assert_array_equal(stepped(z.conj(), np.zeros(2, "complex64")), -0.5 * z.numpy().conj())
    assert z.conj().imag.is_neg()
    np.testing.assert_array_equal(stepped(z.conj().imag, np.zeros(2, "f")), 0.5 * z.numpy().imag)
    recording = z.clone().requires_grad_().conj()
    np.testing.assert_array_equal(stepped(recording, np.zeros(2, "complex64")), -0.5 * z.numpy().conj())


def test_other_tensors_of_torch(torch):
    model = {"w": np.zeros((2, 2), "f")}
    state = optirs.setup(optirs.Descent(0.5), model)
    for sparse in (torch.eye(2).to_sparse(), torch.eye(2).to_sparse_csr()):
        np.testing.assert_array_equal(optirs.update(state, model, {"w": sparse})[1]["w"], -0.5 * np.eye(2))
    with pytest.raises(TypeError, match="gradient at w is no array of numbers, but Tensor"):
        optirs.update(state, model, {"w": torch.eye(2, device="meta")})
    parameter = torch.nn.Parameter(torch.eye(2))
    np.testing.assert_array_equal(optirs.update(state, model, {"w": parameter})[1]["w"], -0.5 * np.eye(2))
    for kind in (torch.int64, torch.bool, torch.uint8):
        np.testing.assert_array_equal(
            optirs.update(state, model, {"w": torch.eye(2, dtype=kind)})[1]["w"], -0.5 * np.eye(2)
        )
    with pytest.raises(ValueError, match=r"gradient at w has shape \(3,\), the parameter has \(2, 2\)"):
        optirs.update(state, model, {"w": torch.ones(3, dtype=torch.bfloat16)})


@pytest.mark.parametrize("name", REAL + COMPLEX)
def test_jax_arrays(jnp, name):
    import jax

    with jax.enable_x64(True):
        g = jnp.array([1.0, 2.0, -4.0]).astype(name)
    assert g.dtype == dtype(name)
    new = stepped(g, np.ones(3, dtype(name)))
    assert new.dtype == dtype(name)
    np.testing.assert_array_equal(new.astype("complex64"), [0.5, 0, 3])
    assert address(shared(g, name, (3,))) == g.unsafe_buffer_pointer()
    other = "complex128" if name in COMPLEX else "float32"
    np.testing.assert_array_equal(stepped(g, np.ones(3, dtype(other))), [0.5, 0, 3])
    np.testing.assert_array_equal(stepped(g[0], np.ones((), dtype(other))), 0.5)


def test_jax_arrays_under_a_transformation(jnp):
    """A tracer has no values: the error says so."""
    import jax

    model = {"w": np.zeros(2, "f")}
    state = optirs.setup(optirs.Descent(0.5), model)

    @jax.jit
    def step(g):
        optirs.update(state, model, {"w": g})
        return g

    with pytest.raises(TypeError, match=r"gradient at w is no array of numbers.*Tracer"):
        step(jnp.ones(2))


def test_a_moment_does_not_hold_a_tensor(torch):
    """What `update` keeps is its own: the tensor may be overwritten afterwards."""
    model = {"w": np.zeros(2, "f")}
    state = optirs.setup(optirs.Momentum(1.0, 0.5), model)
    g = torch.ones(2)
    state, model = optirs.update(state, model, {"w": g})
    g.zero_()
    np.testing.assert_array_equal(state["w"].state["velocity"], [1, 1])
