"""The tables for those who come from another library: complete, and of names that exist."""

import re
from typing import Any

import pytest
from repository import ROOT

import optirs
from optirs import schedules

DOCS = ROOT / "docs"
PEERS = (pytest.mark.peers, pytest.mark.filterwarnings("default"))

JULIA = [
    "AbstractRule",
    "destructure",
    "trainables",
    "KeyPath",
    "haskeypath",
    "getkeypath",
    "Descent",
    "Adam",
    "Momentum",
    "Nesterov",
    "Rprop",
    "RMSProp",
    "AdaGrad",
    "AdaMax",
    "AdaDelta",
    "AMSGrad",
    "NAdam",
    "AdamW",
    "RAdam",
    "OAdam",
    "AdaBelief",
    "WeightDecay",
    "SignDecay",
    "ClipGrad",
    "ClipNorm",
    "OptimiserChain",
    "Lion",
    "AccumGrad",
    "Apollo",
    "NormGrowthCap",
    "setup",
    "update",
    "update!",
    "adjust",
    "adjust!",
    "freeze!",
    "thaw!",
    "trainable",
    "isnumeric",
    "maywrite",
    "init",
    "apply!",
    "Leaf",
    "Restructure",
    "MixedPrecision",
    "@def",
    "@..",
    "@lazy",
]
"""What Optimisers.jl 0.4 exports, and what else its manual has."""

OPTAX_HOMES = ("_src.alias", "_src.transform", "_src.combine", "_src.wrappers", "_src.lookahead", "_src.linesearch")
OPTAX_HOMES += ("_src.factorized", "_src.base", "schedules.", "transforms.")
INNER = {"init_empty_state", "global_norm"}
"""Helpers of optax that are no transform."""


def rows(page: str) -> list[list[str]]:
    """The rows of the first table of a page, its head left out."""
    lines = (DOCS / page).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return table


def missing(names: Any, page: str, column: int = 0) -> list[str]:
    text = " ".join(row[column] for row in rows(page))
    return [name for name in names if not re.search(rf"(?<![\w@]){re.escape(name)}(?![\w!])", text)]


def listed(module: Any) -> list[str]:
    """What optax offers as an optimiser, a schedule or a transform."""
    found = []
    for name in dir(module):
        member = getattr(module, name)
        home = getattr(getattr(member, "func", member), "__module__", None) or ""
        if callable(member) and name[0].islower() and any(home.startswith(f"optax.{h}") for h in OPTAX_HOMES):
            found.append(name)
    return [name for name in [*found, "MultiSteps"] if name not in INNER]


@pytest.mark.parametrize("page", ["from-julia.md", "from-optax.md", "from-torch.md"])
def test_names_of_ours_exist(page: str) -> None:
    table = rows(page)
    assert len(table) > 30
    for row in table:
        assert len(row) == 3, row
        for code in re.findall(r"`([^`]*)`", row[1]):
            for name in re.findall(r"(?<![\w\"])([A-Z]\w+)", code):
                assert name in ("True", "False", "None") or hasattr(optirs, name) or hasattr(schedules, name), row
    assert missing(optirs.RULES, page, column=1) == []


def test_all_of_optimisers_jl() -> None:
    assert missing(JULIA, "from-julia.md") == []


@pytest.mark.parametrize("page", ["from-optax.md", "from-torch.md"])
def test_one_table(page: str) -> None:
    lines = (DOCS / page).read_text().splitlines()
    assert sum(line.startswith("|---") for line in lines) == 1


@pytest.mark.parametrize("library", [pytest.param("torch", marks=PEERS)])
def test_all_of_torch(library: str) -> None:
    optim = pytest.importorskip(library).optim
    from torch.optim import swa_utils

    names = {*optim.__all__, *optim.lr_scheduler.__all__, *swa_utils.__all__}
    names -= {"functional", "lr_scheduler", "Optimizer", "LRScheduler"}
    assert len(names) > 30
    assert missing(sorted(names), "from-torch.md") == []


@pytest.mark.parametrize("library", [pytest.param("optax", marks=PEERS)])
def test_all_of_optax(library: str) -> None:
    names = listed(pytest.importorskip(library))
    assert len(names) > 100
    assert missing(names, "from-optax.md") == []
