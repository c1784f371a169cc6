"""Python's garbage collector rests while a command starts, and only then."""

import gc

import pytest

from segformer_jax.cli import collector


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.unfreeze()


def test_nothing_is_collected_meanwhile_and_what_was_made_is_not_searched_later():
    with collector.paused():
        assert not gc.isenabled()
        made = [[] for _ in range(1_000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= len(made)


def test_the_collector_works_again_after_an_error():
    with pytest.raises(ValueError, match="damaged"), collector.paused():
        raise ValueError("damaged")
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_caller_that_has_stopped_the_collector_keeps_it_so():
    gc.disable()
    try:
        with collector.paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
