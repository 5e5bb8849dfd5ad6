"""Every example in a docstring gives what stands beneath it: the Python modules, and what is compiled."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import optirs
from optirs import _core

MODULES = [f"optirs.{module.name}" for module in pkgutil.iter_modules(optirs.__path__) if module.name != "_core"]
COMPILED = [name for name, value in vars(_core).items() if callable(value)]


def run(tests: list[doctest.DocTest]) -> int:
    """The number of examples that were run; a failing one raises."""
    runner = doctest.DebugRunner(optionflags=doctest.ELLIPSIS)
    for test in tests:
        runner.run(test)
    return runner.tries


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    run(doctest.DocTestFinder().find(importlib.import_module(name), globs={}))


@pytest.mark.parametrize("name", COMPILED)
def test_compiled(name: str) -> None:
    value = getattr(_core, name)
    parts = [value, *(member for key, member in inspect.getmembers(value) if not key.startswith("_"))]
    parser = doctest.DocTestParser()
    docs = [inspect.getdoc(part) or "" for part in (parts if inspect.isclass(value) else [value])]
    tries = run([parser.get_doctest(doc, {}, name, None, 0) for doc in docs])
    assert tries > 0 or not hasattr(optirs, name), f"optirs.{name} has no example"
