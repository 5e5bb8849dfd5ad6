"""`python -m optirs`: trains the model of the Optimisers.jl notebook and compares the result with Julia's."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from . import _notebook as notebook
from ._rule_expression import parse_rule
from .rules import Descent
from .training.events import Event
from .training.history import History
from .training.train import Training

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as shells have it."""

CLOSED_PIPE = 141
"""Exit status when nobody reads on: 128 + SIGPIPE."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status.

    Args:
        argv: arguments; by default those of the process.

    Returns:
        0, or 2 after an error (told on standard error), 130 after Ctrl-C, 141 if the output was closed.

    Examples:
        >>> from optirs.__main__ import main
        >>> main(["--epochs", "50"])  # doctest: +ELLIPSIS
        epoch           loss    Julia 1.8.2     difference
           50    0.031813...     0.03181389       ...
        ...

    Source: the Optimisers.jl notebook.
    """
    try:
        return _run(_parser().parse_args(argv))
    except BrokenPipeError:
        # What is left in the buffer has nowhere to go; Python would complain about it on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ValueError, TypeError, ArithmeticError, ImportError, OSError) as error:
        print(f"optirs: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optirs",
        description="Train the model of the Optimisers.jl notebook, one affine layer, and compare with Julia's result.",
    )
    add = parser.add_argument
    add("--epochs", type=_natural, default=notebook.EPOCHS, metavar="N", help="steps to train (default: %(default)s)")
    add("--rule", default="Descent(0.1)", help="a rule, such as Adam or 'Adam(0.01)' (default: %(default)s)")
    add(
        "--seed",
        type=_natural,
        default=notebook.SEED_MODEL,
        metavar="N",
        help="seed of the model before training (default: %(default)s)",
    )
    add("--plot", metavar="FILE", help="draw the loss over the steps into FILE (.png, .pdf, .svg); needs matplotlib")
    return parser


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is negative")
    return number


_natural.__name__ = "number"  # argparse names it: "invalid number value"


def _run(options: argparse.Namespace) -> int:
    rule = parse_rule(options.rule)
    if options.plot is not None:
        _figure()  # a missing matplotlib is told before the training, not after it
    comparable = rule == Descent(0.1) and options.seed == notebook.SEED_MODEL
    experiment = notebook.experiment(options.seed)
    print(f"{'epoch':>5}{'loss':>15}" + (f"{notebook.JULIA:>15}{'difference':>15}" if comparable else ""))

    def report(event: Event) -> None:
        if event.epoch % notebook.LOG_EVERY == 0:
            loss = experiment.loss(event.model)
            julia = notebook.JULIA_LOSS.get(event.epoch) if comparable else None
            compared = "" if julia is None else f"{julia:>15.8g}{loss - julia:>15.1e}"
            print(f"{event.epoch:>5}{loss:>15.8g}{compared}", flush=True)

    training = experiment.train(rule, options.epochs, report)
    for line in _weights(experiment, training, comparable and len(training.history) == notebook.EPOCHS):
        print(line)
    print(end="", flush=True)
    if options.plot is not None:
        _plot(training.history, options.plot)
    if training.interrupted:
        print(f"optirs: interrupted after {len(training.history)} of {options.epochs} epochs", file=sys.stderr)
        return INTERRUPTED
    return 0


def _weights(experiment: notebook.Experiment, training: Training, comparable: bool) -> Iterator[str]:
    """The trained parameters beside the true ones, and beside Julia's where those are comparable."""
    truth, model = experiment.truth, training.model
    yield ""
    yield f"{'':5}{'true':>15}{'trained':>15}" + (f"{notebook.JULIA:>15}{'difference':>15}" if comparable else "")
    places = [
        (f"W[{row},{column}]", truth.W[row, column], model.W[row, column], julia)
        for row, julias in enumerate(notebook.JULIA_W)
        for column, julia in enumerate(julias)
    ]
    places += [(f"b[{row}]", truth.b[row], model.b[row], julia) for row, julia in enumerate(notebook.JULIA_B)]
    for name, true, trained, julia in places:
        # str gives the fewest digits that tell a float32 from its neighbours, as Julia prints it; so the difference is
        # taken in float32 too, where 0 means the same bits.
        compared = f"{julia!s:>15}{trained - np.float32(julia):>15.1e}" if comparable else ""
        yield f"{name:6}{true!s:>14}{trained!s:>15}{compared}"


def _figure() -> object:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("--plot needs matplotlib: pip install 'optirs[plot]'") from error
    return Figure(layout="constrained")


def _plot(history: History, path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    axes = history.plot(figure.subplots())
    axes.set_title("optirs: the Optimisers.jl notebook")
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
