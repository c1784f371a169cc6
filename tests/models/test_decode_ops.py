"""The folded head's arithmetic in strips of rows is the same as all at once."""

import jax.numpy as jnp
import numpy as np
import pytest

from segformer_jax.models import decode_ops, forms


@pytest.mark.parametrize("values", [1, 7 * 4 * 10, 10**9])  # one row a strip; four; all
@pytest.mark.parametrize("grids", [[(11, 10), (6, 5), (3, 3)], [(9, 13)]])
def test_strips_are_the_whole(x64, rng, monkeypatch, values, grids):
    maps = [jnp.asarray(rng.normal(size=(2, *grid, 4))) for grid in grids]
    kernels = [jnp.asarray(rng.normal(size=(4, 7))) for _ in grids]
    bias = jnp.asarray(rng.normal(size=7))
    classifier = jnp.asarray(rng.normal(size=(7, 3))), jnp.asarray(rng.normal(size=3))
    results = []
    for form in ("cpu", "tpu"):
        monkeypatch.setattr(decode_ops, "VALUES_PER_STRIP", values)
        decode_ops._decode.clear_cache()  # the number above is no argument
        with forms.single_form(form):
            results.append(decode_ops.decode(maps, kernels, bias, classifier, dtype=jnp.float64))
    decode_ops._decode.clear_cache()
    assert results[0].shape == (2, *grids[0], 3)
    np.testing.assert_allclose(*results, rtol=0, atol=1e-12)
