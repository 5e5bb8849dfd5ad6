"""The problems of examples/ in a short form: what they find, and the gradient that is derived by hand."""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from repository import ROOT

import optirs

EXAMPLES = ROOT / "examples"


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An example as a module; skipped where scikit-learn, of the extra `test`, is missing and has its data."""
    path = EXAMPLES / f"{name}.py"
    if "from sklearn" in path.read_text():
        pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_digits_are_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    digits = example("digits", monkeypatch)
    assert digits.main(epochs=8) > 0.94
    assert "of 360 held-out images" in capsys.readouterr().out


def test_the_network_for_diabetes_is_about_as_good_as_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    diabetes = example("diabetes", monkeypatch)
    network, linear = diabetes.main(epochs=30)
    assert network < 1.1 * linear
    # The linear model is the one of the normal equations.
    (known, _, (x, y)), scale = diabetes.data(0)
    columns = np.column_stack([known[0], np.ones(len(known[0]))]).astype(float)
    coefficients = np.linalg.solve(columns.T @ columns, columns.T @ known[1])
    residual = np.column_stack([x, np.ones(len(x))]) @ coefficients - y
    assert linear == pytest.approx(scale * np.sqrt(np.mean(residual**2)), rel=1e-3)


def test_the_conductivity_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    heat = example("heat_adjoint", monkeypatch)
    before, after = heat.main(epochs=120)
    assert before > 0.5
    assert after < 0.15


def test_the_adjoint_is_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    heat = example("heat_adjoint", monkeypatch)
    rod = heat.Rod(n=8, steps=20, dt=1e-3, smooth=1e-3)
    _, start, measured = heat.experiment(rod, 0)
    at = np.random.default_rng(1).normal(size=7) * 0.3
    _, gradient = rod.loss_and_gradient({"log_k": at}, start, measured)

    def loss(log_k: Any) -> float:
        return float(rod.loss_and_gradient({"log_k": log_k}, start, measured)[0])

    differences = [(loss(at + h) - loss(at - h)) / 2e-6 for h in 1e-6 * np.eye(7)]
    np.testing.assert_allclose(gradient["log_k"], differences, rtol=1e-6)


def test_a_rod_that_is_insulated_keeps_its_heat(monkeypatch: pytest.MonkeyPatch) -> None:
    rod = example("heat_adjoint", monkeypatch).Rod(n=8, steps=50, dt=1e-3)
    u = rod.simulate(np.linspace(-1, 0.5, 7), np.arange(8.0))
    np.testing.assert_allclose(u.sum(axis=1), 28)
    assert np.ptp(u[-1]) < np.ptp(u[0])


def test_trainings_at_once_are_those_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    many = example("many_trainings", monkeypatch)
    before = optirs.get_num_threads()
    losses = many.main(epochs=2, rates=(1e-3, 1e-2, 3e-2), workers=3)  # compares the bits itself
    assert list(losses) == [1e-3, 1e-2, 3e-2]
    assert losses[1e-2] < losses[1e-3]
    assert optirs.get_num_threads() == before
