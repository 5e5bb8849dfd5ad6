"""The means of being fast that the benchmarks take away are still in the source."""

import pytest


@pytest.fixture
def means(benches):
    return benches("means")


def test_the_words_of_every_means_stand_in_the_source_once(means):
    for one in means.MEANS.values():
        means.check(one)


def test_words_that_are_gone_are_an_error(means):
    with pytest.raises(ValueError, match=r"rust/step/job\.rs does not have these words once: no such words"):
        means.check(means.Means("step/job.rs", "no such words", "", ()))
