"""Rows reduced by slices, and classes elementwise, against NumPy."""

import importlib

import jax.numpy as jnp
import numpy as np
import pytest

from segformer_jax.ops import rows

cross_entropy = importlib.import_module("segformer_jax.ops.cross_entropy")  # not the function


@pytest.mark.parametrize("width", [1, 31, 32, 33, 64, 100, 256, 1024, 1025, 3000])
def test_row_sum_and_max_are_numpys(x64, rng, width):
    x = rng.normal(size=(2, 3, width))
    np.testing.assert_allclose(
        rows.row_sum(jnp.asarray(x)), x.sum(-1, keepdims=True), rtol=0, atol=1e-11
    )
    np.testing.assert_array_equal(rows.row_max(jnp.asarray(x)), x.max(-1, keepdims=True))


@pytest.mark.parametrize("classes", [1, 2, 11, 16, 17, 31, 33, 150, 257])
def test_the_largest_and_the_total_over_classes_are_numpys(classes, rng):
    planes = rng.normal(size=(3, classes, 5)).astype(np.float32)
    largest, total = cross_entropy._largest(planes), cross_entropy._total(planes)
    np.testing.assert_array_equal(largest, planes.max(1, keepdims=True))
    wanted = planes.sum(1, keepdims=True, dtype=np.float64)
    np.testing.assert_allclose(total, wanted, rtol=0, atol=1e-6 * classes)
