"""What a protocol refuses."""

import jaxtyping
import pytest

from segformer_jax.inference.protocol import Protocol


@pytest.mark.parametrize("flip", ["vertical", "horizontal", 1, None])
def test_a_flip_that_is_neither_true_nor_false_is_refused(flip, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match="flip must be True or False, got"):
        Protocol(flip=flip)


@pytest.mark.parametrize("directions", [(), ("up",), ("vertical", "vertical"), "vertical"])
def test_directions_that_are_none_are_refused(directions, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="must be one or more of horizontal, vertical, diagonal"):
        Protocol(flip=True, flip_direction=directions)


def test_directions_without_a_flip_are_refused():
    with pytest.raises(ValueError, match="flip must be True beside flip_direction"):
        Protocol(flip_direction=("vertical",))


def test_directions_are_told_where_they_are_not_the_usual_one():
    assert Protocol(flip=True).to_dict() == {"flip": True}
    told = Protocol(flip=True, flip_direction=("vertical", "diagonal")).to_dict()
    assert told == {"flip": True, "flip_direction": ["vertical", "diagonal"]}


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(ValueError, match=r"threshold must be in \(0, 1\), got"):
        Protocol(threshold=threshold)


def test_a_threshold_is_told_where_it_is_not_the_usual_one():
    assert Protocol(threshold=0.3).to_dict() == {"threshold": 0.3}
    assert Protocol(threshold=0.3).simple
