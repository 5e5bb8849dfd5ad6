"""A rule is four things: a Rust file, a registry line, a dataclass and an oracle function. All of them, or none."""

import dataclasses
import importlib.metadata
import inspect

import numpy as np
import pytest
import reference
from problems import ONE_EACH, recipe
from problems import RULES as ALL
from repository import ROOT

import optirs
from optirs import _core
from optirs.rules import RULES

COMPOSITES = {"OptimiserChain", "MixedPrecision"}
SOURCE = ROOT / "rust" / "rules"


def test_registries_name_the_same_rules() -> None:
    assert set(_core.rules()) | COMPOSITES == set(RULES)
    assert set(reference.FUNCTIONS) | COMPOSITES == set(RULES)


@pytest.mark.parametrize("name", [name for name in RULES if name not in COMPOSITES])
def test_fields_agree(name: str) -> None:
    fields = {field.name for field in dataclasses.fields(RULES[name])}  # type: ignore[arg-type]
    assert set(_core.rules()[name]) == fields - {"name"}  # which tells groups apart, and is no number of a step


@pytest.mark.skipif(not SOURCE.is_dir(), reason="no source tree here")
def test_one_rust_file_a_rule() -> None:
    files = {path.stem for path in SOURCE.glob("*.rs")} - {"mod"}
    assert files == {name.lower() for name in RULES if name not in COMPOSITES}


@pytest.mark.parametrize("rule", ALL)
def test_state_names_agree(rule: optirs.Rule) -> None:
    def names(state: object) -> object:
        if isinstance(state, dict):
            return list(state)
        return [names(part) for part in state] if isinstance(state, tuple) else type(state)

    x = np.ones(3)
    assert names(optirs.init(rule, x)) == names(reference.start(recipe(rule), x))


@pytest.mark.parametrize("name", RULES)
def test_public_names_and_docstrings(name: str) -> None:
    cls = RULES[name]
    assert getattr(optirs, name) is cls
    assert cls.__name__ == name
    doc = inspect.getdoc(cls)
    assert doc
    for section in ("Args:", "Raises:", "State:", "Examples:", "References:", "Note: Elsewhere"):
        assert f"\n{section}\n" in doc, section
    for field in dataclasses.fields(cls):
        assert f"    {field.name}: " in doc or f"    *{field.name}: " in doc


@pytest.mark.parametrize("rule", ONE_EACH)
def test_docstring_names_the_state(rule: optirs.Rule) -> None:
    doc = inspect.getdoc(type(rule)) or ""
    state = optirs.init(rule, np.ones(3))
    section = doc.partition("State:\n")[2].partition("Examples:")[0]
    for name in state if isinstance(state, dict) else ():
        assert f"`{name}`" in section


def test_the_version_is_that_of_the_installed_package(monkeypatch) -> None:
    assert optirs.__version__ == importlib.metadata.version("optirs")
    with pytest.raises(AttributeError, match="module 'optirs' has no attribute 'nothing'"):
        _ = optirs.nothing  # type: ignore[attr-defined]

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert not hasattr(optirs, "__version__")
