"""The means of being fast that the benchmarks take away are still in the source."""

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def means(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    return importlib.import_module("benches.means")


def test_the_words_of_every_means_stand_in_the_source_once(means):
    for one in means.MEANS.values():
        means.check(one)


def test_words_that_are_gone_are_an_error(means):
    with pytest.raises(ValueError, match=r"rust/job\.rs does not have these words once: no such words"):
        means.check(means.Means("job.rs", "no such words", "", ()))
