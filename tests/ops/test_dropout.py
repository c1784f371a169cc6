"""Dropout drops what it should, independently, and differently for every key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from segformer_jax.models.layers import Dropout
from segformer_jax.ops.dropout import keep

COUNT = 1 << 20
SIGMAS = 5  # of a binomial: a right generator fails once in two million


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_the_rate_is_kept(rate):
    dropped = COUNT - int(keep(jax.random.key(3), rate, (COUNT,)).sum())
    assert abs(dropped - rate * COUNT) < SIGMAS * np.sqrt(rate * (1 - rate) * COUNT)


@pytest.mark.parametrize("lag", [1, 2, 7, 64, 256, 4096, 1 << 14])
def test_neighbours_are_independent(lag):
    mask = np.asarray(keep(jax.random.key(5), 0.5, (COUNT,))) * 2.0 - 1
    assert abs(np.mean(mask[lag:] * mask[:-lag])) < SIGMAS / np.sqrt(COUNT - lag)


@pytest.mark.parametrize("other", [1, 2, 3, 1 << 16])
def test_keys_are_independent(other):
    one, two = (
        np.asarray(keep(key, 0.5, (COUNT,))) * 2.0 - 1
        for key in (jax.random.key(0), jax.random.fold_in(jax.random.key(0), other))
    )
    assert abs(np.mean(one * two)) < SIGMAS / np.sqrt(COUNT)


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_every_kind_of_key_serves_and_keys_map(kind):
    keys = jax.random.split(jax.random.key(0, impl=kind), 4)
    masks = jax.vmap(lambda key: keep(key, 0.5, (100,)))(keys)
    assert len({mask.tobytes() for mask in np.asarray(masks)}) == 4


def test_what_stays_is_scaled_and_the_gradient_alike():
    dropout, x = Dropout(0.25), jnp.ones((40, 50))
    y, gradient = jax.value_and_grad(lambda x: dropout(x, rngs=nnx.Rngs(dropout=0)).sum())(x)
    np.testing.assert_allclose(np.unique(gradient), [0, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose(y, gradient.sum(), rtol=1e-5)


def test_nothing_happens_without_a_rate_or_in_use():
    x, dropout = jnp.ones((2, 3)), Dropout(0.5)
    assert Dropout(0.0)(x) is x
    assert not Dropout(1.0)(x, rngs=nnx.Rngs(0)).any()
    with pytest.raises(ValueError, match="pass rngs"):
        dropout(x)
    dropout.eval()
    assert dropout(x) is x
