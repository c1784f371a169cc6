"""Rows reduced by slices, against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from segformer_jax.ops import rows


@pytest.mark.parametrize("width", [1, 31, 32, 33, 64, 100, 256, 1024, 1025, 3000])
def test_row_sum_and_max_are_numpys(x64, rng, width):
    x = rng.normal(size=(2, 3, width))
    np.testing.assert_allclose(
        rows.row_sum(jnp.asarray(x)), x.sum(-1, keepdims=True), rtol=0, atol=1e-11
    )
    np.testing.assert_array_equal(rows.row_max(jnp.asarray(x)), x.max(-1, keepdims=True))
