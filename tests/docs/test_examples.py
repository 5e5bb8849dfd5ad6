"""Every example runs: the Python blocks of the documents, the docstrings of the installed package, examples/*.py.

The blocks of one document share one namespace, in order. Docstring examples start with `np` and `optirs` imported.
"""

import doctest
import importlib
import importlib.util
import inspect
import os
import pkgutil
import subprocess
import sys
import types

import numpy as np
import pytest
from repository import ROOT
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import optirs

os.environ["MPLBACKEND"] = "Agg"

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
SCRIPTS = sorted(ROOT.glob("examples/*.py"))
PEERS = ("jax", "torch")
MARKDOWN = Sybil(parsers=[PythonCodeBlockParser()])


def name(path):
    return path.relative_to(ROOT).as_posix()


def examples(path, module=None):
    """The Python blocks of a document; they run in the namespace of `module`."""
    document = MARKDOWN.parse(path)
    if module is not None:
        document.namespace = vars(module)
    return list(document.examples())


def installed(module_name):
    """Whether what the module is a bridge to is there, if it is one."""
    package, _, library = module_name.rpartition(".")
    return package != "optirs.bridges" or library not in PEERS or importlib.util.find_spec(library) is not None


def modules():
    names = [m.name for m in pkgutil.walk_packages(optirs.__path__, "optirs.")]
    return [optirs, *(importlib.import_module(name) for name in names if installed(name))]


def marked(example, source):
    """The example, deselected like the other tests of peers if it needs one."""
    needs_peer = any(f"import {peer}" in source for peer in PEERS)
    return pytest.param(example, marks=[pytest.mark.peers, pytest.mark.filterwarnings("default")] if needs_peer else [])


def docstrings():
    """The examples of every module and public member, each once; `find` alone would miss what is compiled."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    start = {"np": np, "optirs": optirs}
    tests = [test for module in modules() for test in finder.find(module, globs=start)]
    for member_name in getattr(optirs, "__all__", dir(optirs)):
        member = getattr(optirs, member_name)
        if inspect.isroutine(member) or inspect.isclass(member):
            tests += finder.find(member, f"optirs.{member_name}", module=False, globs=start)
    return list({test.docstring: test for test in tests if test.examples}.values())


DOCSTRINGS = docstrings()


def test_every_source_has_examples():
    assert examples(ROOT / "README.md")
    assert len(list(ROOT.glob("docs/**/*.md"))) > 5
    assert sum(len(examples(path)) for path in DOCUMENTS) > 20
    assert DOCSTRINGS
    assert SCRIPTS


@pytest.mark.parametrize("path", [marked(path, path.read_text()) for path in DOCUMENTS], ids=name)
def test_document(path, monkeypatch):
    module = types.ModuleType("document")
    monkeypatch.setitem(sys.modules, "document", module)  # so that the classes it defines can be pickled
    for example in examples(path, module):
        example.evaluate()


@pytest.mark.parametrize("test", [marked(test, test.docstring) for test in DOCSTRINGS], ids=lambda test: test.name)
def test_docstring(test):
    out = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.DocTestRunner(optionflags=flags).run(test, out=out.append)
    assert result.failed == 0, "".join(out)


@pytest.mark.parametrize("path", [marked(path, path.read_text()) for path in SCRIPTS], ids=name)
def test_script(path, tmp_path):
    if "import sklearn" in (source := path.read_text()) or "from sklearn" in source:
        pytest.importorskip("sklearn", reason="scikit-learn, of the extra `test`, has the data")
    done = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
