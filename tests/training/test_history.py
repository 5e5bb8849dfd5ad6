"""What a training leaves behind and shows: its history, plots and the progress bar."""

import copy
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import optirs

RULE = optirs.Descent(0.1)
GRADIENT = optirs.supervised(optirs.mse)


def problem() -> tuple[Any, tuple[np.ndarray, np.ndarray]]:
    return optirs.Affine(np.zeros((2, 3), np.float32), np.zeros(2, np.float32)), (np.ones((4, 3)), np.ones((4, 2)))


class Unsized:
    """Batches whose number is not known beforehand."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def test_history_is_a_sequence() -> None:
    history = optirs.History([3.0, 2.0, 1.0], [(1, 2.5)])
    assert (len(history), history[0], history[-1], history[1:]) == (3, 3.0, 1.0, [2.0, 1.0])
    assert list(history) == [3.0, 2.0, 1.0]
    assert 2.0 in history
    assert np.asarray(history).dtype == np.float64
    assert np.asarray(history, dtype="float32").tolist() == [3.0, 2.0, 1.0]
    assert np.asarray(optirs.History()).shape == (0,)
    assert history == optirs.History([3.0, 2.0, 1.0], [(1, 2.5)]) != optirs.History([3.0])
    assert repr(history) == "<History of 3 steps, last loss 1>"
    with pytest.raises(ValueError, match="without a copy"):
        np.array(history, copy=False)
    with pytest.raises(IndexError):
        history[3]
    spoilt = optirs.History([np.nan])
    assert spoilt == spoilt == copy.deepcopy(spoilt) == pickle.loads(pickle.dumps(spoilt)) != optirs.History()
    history.extend(np.array([0.5, 0.25], np.float32))
    history.extend([0.125])
    history.extend(np.array([2.0, 1], object))
    assert history[3:] == [0.5, 0.25, 0.125, 2.0, 1.0]
    history.extend(history)
    assert history[:8] == history[8:]
    for wrong in (np.array([1j]), np.array(1.0), np.ones((2, 2)), [1.0, "x"]):
        with pytest.raises((TypeError, ValueError)):
            history.extend(wrong)
    assert len(history) == 16


def test_history_plots_what_it_holds() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure
    axes = optirs.History([4.0, 2.0, 1.0]).plot(figure().subplots())
    (line,) = axes.get_lines()
    np.testing.assert_array_equal(line.get_xydata(), [[1, 4], [2, 2], [3, 1]])
    assert axes.get_yscale() == "log"
    assert optirs.History([1.0, -1.0]).plot(figure().subplots()).get_yscale() == "linear"


def test_history_plots_in_a_figure_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    axes = optirs.History([2.0, 1.0]).plot()
    assert axes.get_xlabel() == "step"
    pyplot.close(axes.figure)


def test_plotting_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"optirs\[plot\]"):
        optirs.History([1.0]).plot()


def test_progress_is_quiet_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    model, data = problem()
    optirs.train(GRADIENT, model, data, RULE, epochs=3, progress=True)
    assert tuple(capfd.readouterr()) == ("", "")


def test_progress_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    model, data = problem()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for source in (data, Unsized([data])):
        training = optirs.train(GRADIENT, model, source, RULE, epochs=3, progress=True)
        out, err = capsys.readouterr()
        assert out == ""
        assert f"epoch 3/3, loss {training.history[-1]:.8g}"[:20] in err


def test_a_bar_without_rich_names_the_extra(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    model, data = problem()
    monkeypatch.setitem(sys.modules, "rich.console", None)
    optirs.train(GRADIENT, model, data, RULE, progress=True)  # no terminal: no bar, no need for it
    assert tuple(capfd.readouterr()) == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    optirs.train(GRADIENT, model, data, RULE)
    with pytest.raises(ImportError, match=r"optirs\[progress\]"):
        optirs.train(GRADIENT, model, data, RULE, progress=True)
