"""The folded head's arithmetic in strips of rows is the same as all at once."""

from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segformer_jax import ops

module = import_module("segformer_jax.ops.decode")


@pytest.mark.parametrize("values", [1, 7 * 4 * 10, 10**9])  # one row a strip; four; all
@pytest.mark.parametrize("grids", [[(11, 10), (6, 5), (3, 3)], [(9, 13)]])
def test_strips_are_the_whole(x64, rng, monkeypatch, values, grids):
    maps = [jnp.asarray(rng.normal(size=(2, *grid, 4))) for grid in grids]
    kernels = [jnp.asarray(rng.normal(size=(4, 7))) for _ in grids]
    bias = jnp.asarray(rng.normal(size=7))
    classifier = jnp.asarray(rng.normal(size=(7, 3))), jnp.asarray(rng.normal(size=3))
    results = []
    for form in ("cpu", "tpu"):
        monkeypatch.setattr(module, "VALUES_PER_STRIP", values)
        jax.clear_caches()  # the number above is no argument
        with ops.use(form):
            results.append(ops.decode(maps, kernels, bias, classifier, dtype=jnp.float64))
    jax.clear_caches()
    assert results[0].shape == (2, *grids[0], 3)
    np.testing.assert_allclose(*results, rtol=0, atol=1e-12)
