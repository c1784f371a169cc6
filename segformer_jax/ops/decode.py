"""The arithmetic of the folded decode head in inference: from feature maps to logits."""

from collections.abc import Sequence
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.bilinear import bilinear_neighbours
from segformer_jax.ops.dense import linear
from segformer_jax.ops.dispatch import Form, fuses_blocks, is_known, operation
from segformer_jax.ops.resize import lerp, resize_bilinear

VALUES_PER_STRIP = 1 << 20  # of the decoder's wide map, computed at once on CPU: 4 MB of float32


def _classified(
    x: Float[Array, "b h w _"],
    deeper: Sequence[Float[Array, "b _ _ d"]],
    kernel: Float[Array, "_ d"],
    bias: Float[Array, " d"],
    classifier: tuple[Float[Array, "d labels"], Float[Array, " labels"]],
    *,
    dtype: DTypeLike,
) -> Float[Array, "b h w labels"]:
    """Returns classifier(relu(x K + Σ up(y_i) + bias)); each y_i has its kernel applied."""
    grids = (resize_bilinear(y, size=x.shape[1:3]) for y in deeper)
    return _classify(x, grids, kernel, bias, classifier, dtype)


def _classify(x, deeper, kernel, bias, classifier, dtype):
    x = reduce(jnp.add, deeper, linear(x, kernel, bias, dtype=dtype))
    return linear(jax.nn.relu(x), *classifier, dtype=dtype)


def _by_strips(x, deeper, kernel, bias, classifier, *, dtype):
    """Computes one strip of rows at a time: the map of all head channels stays in the cache."""
    if not is_known(*x.shape):
        return _classified(x, deeper, kernel, bias, classifier, dtype=dtype)
    b, h, w, _ = x.shape
    strips = -(-h // max(1, VALUES_PER_STRIP // (b * w * kernel.shape[-1])))
    rows = -(-h // strips)

    def of_strips(per_row):
        padded = np.pad(per_row, (0, strips * rows - h), mode="edge")
        return padded.reshape(strips, rows)

    def one(strip):
        own, between = strip
        grids = (
            lerp(lerp(y, near, 1), bilinear_neighbours(y.shape[2], w, y.dtype), 2)
            for y, near in zip(deeper, between, strict=True)
        )
        own = jnp.take(x, own, 1, mode="clip")
        return _classify(own, grids, kernel, bias, classifier, dtype)

    between = [
        [of_strips(each) for each in bilinear_neighbours(y.shape[1], h, y.dtype)] for y in deeper
    ]
    y = lax.map(one, (of_strips(np.arange(h)), between))  # (strips, b, rows, w, labels)
    return jnp.moveaxis(y, 0, 1).reshape(b, strips * rows, w, -1)[:, :h]


def _on_gpu(*operands, **options):
    """Runs the Pallas kernel for NVIDIA's GPUs, lowered in tests but never run there."""
    from segformer_jax.ops import decode_gpu, kernels  # importing Pallas takes a while

    x, deeper, _, _, (classifier, _) = operands
    fits = decode_gpu.fits(x.shape, [y.shape for y in deeper], *classifier.shape)
    return kernels.on("cuda", decode_gpu.classified, _classified, *operands, fits=fits, **options)


classified = operation(_classified, cpu=Form(_by_strips))
classified_at_once = operation(_classified, cpu=Form(_by_strips), gpu=Form(_on_gpu))


def _fused(
    kernels: Sequence[Float[Array, "_ d"]],
    biases: Sequence[Float[Array, " d"]],
    fuse: Float[Array, "_ d"],
) -> tuple[list[Float[Array, "_ d"]], Float[Array, " d"]]:
    """Returns each stage's projection times its part of the fuse kernel, and one bias for all.

    HF concatenates the deepest stage first, so that stage's rows of the fuse kernel come first.
    """
    rows = fuse.reshape(len(kernels), -1, fuse.shape[-1])[::-1]
    products = [jnp.matmul(k, rows[i], precision="highest") for i, k in enumerate(kernels)]
    return products, jnp.einsum("sd,sde->e", jnp.stack(biases), rows, precision="highest")


fused = operation(_fused, replicated=True)


def decode(
    hidden_states: Sequence[Float[Array, "b _ _ _"]],
    kernels: Sequence[Float[Array, "_ d"]],
    bias: Float[Array, " d"],
    classifier: tuple[Float[Array, "d labels"], Float[Array, " labels"]],
    *,
    dtype: DTypeLike,
) -> Float[Array, "b h w labels"]:
    """Returns classifier(relu(Σ up(x_i K_i) + bias)), at the size of the first feature map."""
    x, *deeper = hidden_states
    first, *others = kernels
    deeper = [linear(y, k, None, dtype=dtype) for y, k in zip(deeper, others, strict=True)]
    run = classified_at_once if fuses_blocks() else classified
    return run(x, deeper, first, bias, classifier, dtype=dtype)
