"""Fixtures that tests of several rooms share."""

from pathlib import Path

import jax
import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def strict():
    """No silent promotion of types or ranks, as careful users of JAX run it."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def shared() -> Path:
    """Pictures and a trained checkpoint that may not be part of the repository."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder of data sets beside the repository, ../shared")
    return SHARED


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
