"""Rounds: each makes a world, arms it, goes one road through the package, and judges what comes out."""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import optirs

from . import acts, hooks, oracle, roads
from .judge import Before, Wrong, judge_error
from .worlds import World

HANG = float(os.environ.get("OPTIRS_ATTACK_HANG", "30"))
"""Seconds after which a round counts as hanging."""


@dataclass(frozen=True)
class Choice:
    """Which rounds are run: `first` up to `first + rounds`, of these groups of acts, roads and hooks."""

    seed: int = 0
    rounds: int = 1000
    first: int = 0
    acts: tuple[str, ...] = tuple(acts.GROUPS)
    roads: tuple[str, ...] = tuple(roads.ROADS)
    hooks: tuple[str, ...] = ("acting rule", *hooks.BEFORE, *hooks.AFTER)

    def command(self, at: int) -> str:
        """What runs round `at` alone."""
        full, parts = Choice(), [f"python -m attack --seed {self.seed} --first {at} --rounds 1"]
        for name in ("acts", "roads", "hooks"):
            if (mine := getattr(self, name)) != getattr(full, name):
                parts.append(f"--{name} '{','.join(mine)}'")
        return " ".join(parts)


@dataclass
class Report:
    """What rounds came to; every fault is told at once."""

    tell: Callable[[str], object] = lambda fault: None
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, fault: str) -> None:
        self.faults.append(fault)
        self.tell(fault)


def one_round(choice: Choice, at: int) -> str:
    """Runs one round; what came out of it, in a word. Raises where that is not accepted."""
    world = World(f"{choice.seed}/{at}")
    rng = world.rng
    name = rng.choice(weighted(choice.roads, [r for r in choice.roads if r.startswith(roads.OFTEN)]))
    road = {**roads.FAULTS, **roads.ROADS}[name]
    group = rng.choice(choice.acts)
    fitting = [hook for hook in choice.hooks if hook not in hooks.TREES or not road.net] or list(choice.hooks)
    fitting = weighted(fitting, [hook for hook in fitting if hook in hooks.OFTEN])
    wanted = set(rng.sample(fitting, min(len(fitting), rng.choice([1, 2, 2, 3]))))
    if ("thread" in wanted and group == "memory") or ("profile" in wanted and group == "errors"):
        group = "none"  # what a thread frees, or a profiler raises, within NumPy is NumPy's matter
    chosen = [rng.choice(acts.GROUPS[group]) for _ in range(rng.choice([1, 1, 2]))]
    world.plan = f"{name}: {', '.join(sorted(wanted))}: {', '.join(act.__name__ for act in chosen)}"
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return _judged(world, road, chosen, wanted)
    finally:
        world.armed = False
        for undo in reversed(world.undo):
            with contextlib.suppress(OSError):
                undo()


def weighted(names: Sequence[str], often: list[str]) -> list[str]:
    """`names`, some of them three times."""
    return [*names, *often, *often]


def _judged(world: World, road: roads.Road, chosen: list[Any], wanted: set[str]) -> str:
    populate(world, road, wanted)
    for name in hooks.BEFORE:
        if name in wanted:
            hooks.BEFORE[name](world)
    try:
        world.other, world.args = road.function, list(road.arguments(world))
    except Exception as error:  # a world too odd for this road: a copy of its state raises
        judge_error(world, error)
        return "no arguments"
    world.spares_viewed = road.by_numpy or bool(wanted & hooks.ANYWHERE)
    quiet = wanted <= {"none"}
    expected = oracle.expected(world, road) if quiet else None
    before = Before(world, road.in_place)
    world.acts = [acts.gently(act) for act in chosen]
    for name in hooks.AFTER:
        if name in wanted:
            hooks.AFTER[name](world)
    world.armed = not quiet
    args, world.result = list(world.args), None
    failed: BaseException | None = None
    try:
        world.result = road.function(*args)
    except BaseException as error:
        failed = error
    world.armed = False
    if failed is not None:
        judge_error(world, failed)
    if world.failures:
        raise world.failures[0]
    if expected is not None:
        oracle.compare(world, expected, failed)
    before.compare_rest()
    if failed is not None or not road.in_place:
        before.compare_all()
    if failed is None and road.function in (optirs.update, optirs.update_):
        _use(world)
    word = "a result" if failed is None else type(failed).__name__
    return word if world.fired >= world.first else f"{word}, undisturbed"


def populate(world: World, road: roads.Road, wanted: set[str]) -> None:
    """Gives the world a model, a rule, a state and a gradient."""
    world.model = world.net() if road.net else world.tree()
    if not road.net and not world.nodes:
        world.nodes.append([world.model])
    if not world.arrays:
        world.array((3,), "f4")
    if not hasattr(world, "n_in"):
        world.n_in, world.n_out = 3, 2
    world.rule = hooks.acting_rule(world) if "acting rule" in wanted else world.rule()
    try:
        world.state = optirs.setup(world.rule, world.model)
    except (TypeError, ValueError, AttributeError, MemoryError, FloatingPointError, RecursionError):
        world.rule = optirs.Momentum()
        try:
            world.state = optirs.setup(world.rule, world.model)
        except (TypeError, ValueError):
            world.model = {"a": world.array((3,), "f4"), "b": [world.array((2, 50), "f8")]}
            world.nodes += [world.model, world.model["b"]]
            world.state = optirs.setup(world.rule, world.model)
    world.gradient = world.gradient_of(world.model)


def _use(world: World) -> None:
    """What came out must be fit for another step: reads all of it."""
    state, model = world.result
    try:
        optirs.update(state, model, None)
        repr(state)
    except Exception as error:
        judge_error(world, error)
    if world.failures:
        raise world.failures[0]


def child(choice: Choice) -> None:
    """Runs rounds; a line of text goes out before each, and what came of it after it."""
    import faulthandler

    faulthandler.enable(all_threads=False)
    gc.collect()
    gc.freeze()  # of what was imported no collection need look at anything
    outcomes: Counter[str] = Counter()
    for at in range(choice.first, choice.first + choice.rounds):
        print(at, file=sys.stdout, flush=True)
        faulthandler.dump_traceback_later(HANG, exit=True)
        try:
            outcomes[one_round(choice, at)] += 1
        except BaseException as error:
            outcomes["a fault"] += 1
            text = "".join(traceback.format_exception(error, limit=-6))
            print(json.dumps({"at": at, "fault": text}), file=sys.stdout, flush=True)
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps({"outcomes": outcomes}), flush=True)


def attack(choice: Choice, most: int = 20, tell: Callable[[str], object] = lambda fault: None) -> Report:
    """Runs rounds in child processes, one after the other, as each may crash; ends after so many faults."""
    report, end, at = Report(tell), choice.first + choice.rounds, choice.first
    while at < end and len(report.faults) < most:
        at = _until_a_crash(choice, at, end, report)
    return report


def _until_a_crash(choice: Choice, first: int, end: int, report: Report) -> int:
    """Runs rounds from `first` on in one process; the round to go on with."""
    options = [f"--{name}={','.join(getattr(choice, name))}" for name in ("acts", "roads", "hooks")]
    command = [sys.executable, "-m", "attack", "--child", f"--seed={choice.seed}", f"--first={first}"]
    command += [f"--rounds={end - first}", *options]
    # What is freed is given back to the system at once, so that who reads it is caught.
    limits = {"MALLOC_MMAP_THRESHOLD_": "1024", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_PERTURB_": "165"}
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**limits, **os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}
    at, done = first, False
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        assert process.stdout is not None
        with process:
            for line in process.stdout:
                if line.startswith("{"):
                    said = json.loads(line)
                    if "fault" in said:
                        report.add(f"{said['fault']}\nRun it again: {choice.command(said['at'])}")
                    else:
                        report.outcomes.update(said["outcomes"])
                        done = True
                elif line.strip().isdigit():
                    at = int(line)
        if done and process.returncode == 0:
            return end
        errors.seek(0)
        text = errors.read()
        begin = text.find("ERROR: AddressSanitizer")
        text = text[begin : begin + 4000] if begin >= 0 else text[-4000:]
        how = signal.Signals(-process.returncode).name if process.returncode < 0 else f"exit {process.returncode}"
        report.add(f"round {at} ended the process: {how}\n{text}\nRun it again: {choice.command(at)}")
    return at + 1


def main() -> int:
    """The command line; see the package."""
    import argparse

    full = Choice()
    parser = argparse.ArgumentParser("attack", description="a fuzzer of hostile worlds")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    for name, words in (("seed", "of all rounds"), ("rounds", "how many"), ("first", "the number of the first one")):
        parser.add_argument(f"--{name}", type=int, default=getattr(full, name), help=words)
    for name in ("acts", "roads", "hooks"):
        parser.add_argument(f"--{name}", help=f"of {', '.join(getattr(full, name))}")
    parser.add_argument("--most", type=int, default=20, help="faults after which it ends")
    given = vars(parser.parse_args())
    is_child, most = given.pop("child"), given.pop("most")
    chosen = {name: tuple(given[name].split(",")) for name in ("acts", "roads", "hooks") if given[name]}
    choice = Choice(given["seed"], given["rounds"], given["first"], **chosen)
    if is_child:
        child(choice)
        return 0
    start = time.monotonic()
    report = attack(choice, most, lambda fault: print(fault, end="\n\n", flush=True))
    print(f"{time.monotonic() - start:.0f} s; {len(report.faults)} faults; {dict(report.outcomes.most_common())}")
    return 1 if report.faults else 0


__all__ = ["Choice", "Report", "Wrong", "attack", "main"]
