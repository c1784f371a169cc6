"""What a protocol refuses."""

import jaxtyping
import pytest

from segformer_jax.inference.protocol import Protocol


@pytest.mark.parametrize("flip", ["vertical", "horizontal", 1, None])
def test_a_flip_that_is_neither_true_nor_false_is_refused(flip, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match="flip must be True or False, got"):
        Protocol(flip=flip)
