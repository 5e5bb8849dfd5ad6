"""The Optimisers.jl notebook: the command, the example, and what Julia printed."""

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT

import optirs
from optirs import _notebook as notebook
from optirs.__main__ import main

EXAMPLE = ROOT / "examples" / "notebook.py"
COMMAND = [sys.executable, "-m", "optirs"]


def losses_in(text: str) -> dict[int, float]:
    rows = re.findall(r"^(?:epoch)?\s*(\d+):?(?: loss)?\s+([-+.e\d]+)", text, re.MULTILINE)
    return {int(epoch): float(loss) for epoch, loss in rows}


def check_losses(losses: dict[int, float]) -> None:
    assert list(losses) == list(notebook.JULIA_LOSS)
    for epoch, julia in notebook.JULIA_LOSS.items():
        assert losses[epoch] == pytest.approx(julia, rel=2e-5 if epoch <= 350 else 1e-4), epoch


def test_the_command_prints_julias_losses_and_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    curve, weights = out.split("\n\n")
    check_losses(losses_in(curve))
    rows = [line.split() for line in weights.splitlines()[1:]]
    assert [row[0] for row in rows] == ["W[0,0]", "W[0,1]", "W[0,2]", "W[1,0]", "W[1,1]", "W[1,2]", "b[0]", "b[1]"]
    julias = [*np.ravel(notebook.JULIA_W), *notebook.JULIA_B]
    for (_, _, trained, printed, difference), julia in zip(rows, julias, strict=True):
        assert float(printed) == julia
        assert float(trained) == pytest.approx(julia, abs=2e-6)
        assert float(difference) == pytest.approx(float(trained) - julia, abs=1e-7)


def test_the_truth_is_what_julia_printed() -> None:
    # Julia printed the true W with six digits.
    printed = [[0.997473, 0.324766, 0.0789543], [0.944791, 0.866895, 0.339611]]
    np.testing.assert_allclose(notebook.experiment().truth.W, printed, rtol=2e-6)


def test_the_example_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(EXAMPLE))
    check_losses(losses_in(capsys.readouterr().out.split("\nW")[0]))
    np.testing.assert_allclose(names["model"].W, notebook.JULIA_W, atol=2e-6)
    np.testing.assert_allclose(names["model"].b, notebook.JULIA_B, atol=2e-6)


@pytest.mark.parametrize(
    ("arguments", "losses", "weights"),
    [(["--epochs", "100"], True, False), (["--seed", "7"], False, False), (["--rule", "Descent(0.05)"], False, False)],
)
def test_julias_columns_stand_only_where_they_compare(
    arguments: list[str], losses: bool, weights: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    curve, table = capsys.readouterr().out.split("\n\n")
    assert ("Julia" in curve) is losses
    assert ("Julia" in table) is weights


@pytest.mark.parametrize("rule", ["Descent", "Descent()", "Descent(0.1)", "Descent(eta=1e-1)", " Descent( 0.1 ) "])
def test_rules_as_text(rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rule", rule, "--epochs", "50"]) == 0
    assert "Julia" in capsys.readouterr().out


@pytest.mark.parametrize(
    "eta",
    [
        "schedules.Constant(0.1)",
        "schedules.Piecewise([0.1, 1e9], (60,))",
        "schedules.Sequence((schedules.Constant(0.1), schedules.Cosine(0.5, 10, end=0.1)), boundaries=(60,))",
    ],
)
def test_schedules_as_text(eta: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--epochs", "50"]) == 0
    expected = losses_in(capsys.readouterr().out.split("\n\n")[0])
    assert main(["--rule", f"Scheduled(Descent(), eta={eta})", "--epochs", "50"]) == 0
    assert losses_in(capsys.readouterr().out.split("\n\n")[0]) == expected != {}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rule", "Nonsense"],
        ["--rule", ""],
        ["--rule", "Descent("],
        ["--rule", "Descent(-1.0)"],
        ["--rule", "Descent(0.1, 0.2, 0.3)"],
        ["--rule", "Descent(rho=0.9)"],
        ["--rule", "Descent('a')"],
        ["--rule", "Descent(1 + 1)"],
        ["--rule", "Descent(*[0.1])"],
        ["--rule", "Descent(**{'eta': 0.1})"],
        ["--rule", "Descent(0.1)(0.2)"],
        ["--rule", "Descent.mro()"],
        ["--rule", "__import__('os').system('echo unsafe')"],
        ["--rule", "Descent(" * 2000],
        ["--rule", "Descent(" + "-" * 900 + "1)"],
        ["--rule", "Descent(\0)"],
        ["--rule", "Descent(100.0)"],
        ["--rule", "schedules.Constant(0.1)"],
        ["--rule", "Scheduled(Descent())"],
        ["--rule", "Scheduled(Descent(), eta=schedules.Nonsense(0.1))"],
        ["--rule", "Scheduled(Descent(), eta=schedules)"],
        ["--epochs", "-1"],
        ["--epochs", "many"],
        ["--seed", "-1"],
        ["--seed", "1.5"],
        ["--nonsense"],
        ["--plot", "no such folder/loss.png", "--epochs", "1"],
        ["--plot", "loss.nonsense", "--epochs", "1"],
    ],
)
def test_errors_are_one_message_on_stderr(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(arguments)
    except SystemExit as leave:  # argparse
        status = int(leave.code or 0)
    out, err = capsys.readouterr()
    assert status == 2
    assert "optirs: " in err
    assert "Traceback" not in err
    assert "unsafe" not in out


def test_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "loss.png"
    assert main(["--epochs", "20", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().err == ""


def test_plot_without_matplotlib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["--plot", "loss.png"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "optirs[plot]" in err


def test_a_seed_is_of_any_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", str(2**200), "--epochs", "0"]) == 0
    trained = capsys.readouterr().out.split("W[0,0]")[1].split()[1]
    assert np.float32(trained) == optirs.Affine.random(3, 2, rng=optirs.Xoshiro(2**200)).W[0, 0]


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
def test_ctrl_c_is_tidy() -> None:
    with subprocess.Popen(
        [*COMMAND, "--epochs", "100000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a shell may have switched off
    ) as process:
        assert process.stdout is not None
        for _ in range(3):  # the header and two epochs: it is training
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(r"optirs: interrupted after \d+ of 100000000 epochs\n", err)
    assert "W[1,2]" in out


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
def test_a_closed_pipe_is_tidy() -> None:
    with subprocess.Popen(
        [*COMMAND, "--epochs", "100000000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.returncode == 141
        assert process.stderr.read() == ""
