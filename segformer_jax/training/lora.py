"""Low-rank adapters (LoRA, Hu et al. 2022) of a flat dict of parameters; no module changes.

A kernel W (inputs, outputs) becomes W + (alpha/rank)·A·B, with A (inputs, rank) and B (rank,
outputs) trained and W left as it is:

    adapters = add_lora(params, rank=8, key=jax.random.key(0))
    loss = lambda adapters: loss_of(apply_lora(params, adapters, alpha=16))  # in training
    params = apply_lora(params, adapters, alpha=16)  # plain weights again, at the end
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import jax
import jax.numpy as jnp
from jaxtyping import Array

from segformer_jax.checkpoints.flat import Flat
from segformer_jax.training.optimizer import frozen

PROJECTIONS = ("*.attention.[qkvo]_proj.kernel", "*.mlp.fc[12].kernel")
HEADS = ("decode_head.*", "classifier.*")
STATISTICS = (".mean", ".var", ".num_batches_tracked")


def add_lora(
    params: Mapping[str, Array | jax.ShapeDtypeStruct],
    *,
    rank: int,
    patterns: Iterable[str] = PROJECTIONS,
    key: Array,
) -> Flat:
    """Makes new adapters for the kernels that match: `….lora_a` is random, `….lora_b` zero.

    A is normal, as in the paper, with a variance of 1/inputs, so that A·x has about the scale of x.
    Because B is zero, the adapted model is at first equal to the given one.

    Raises:
        ValueError: the rank is not positive, or a pattern matches nothing, or a parameter that is
            not the kernel of a linear layer.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, usually 4 to 16, got {rank}")
    chosen = sorted(frozen(params, patterns))
    adapters = {}
    for name, own in zip(chosen, jax.random.split(key, len(chosen)), strict=True):
        kernel = params[name]
        if not name.endswith(".kernel") or kernel.ndim != 2:
            raise ValueError(
                f"an adapter must belong to the kernel of a linear layer, got {name} "
                f"{kernel.shape}: change the patterns, for example to "
                f"{', '.join(PROJECTIONS)}"
            )
        inputs, outputs = kernel.shape
        path = name.removesuffix("kernel")
        adapters[f"{path}lora_a"] = (
            jax.random.normal(own, (inputs, rank), kernel.dtype) * inputs**-0.5
        )
        adapters[f"{path}lora_b"] = jnp.zeros((rank, outputs), kernel.dtype)
    return adapters


def apply_lora(params: Mapping[str, Array], adapters: Mapping[str, Array], *, alpha: float) -> Flat:
    """Returns the parameters with every adapter merged into its kernel; differentiable in both."""
    merged = dict(params)
    for name, a in adapters.items():
        if name.endswith(".lora_a"):
            path = name.removesuffix("lora_a")
            change = jnp.matmul(a, adapters[f"{path}lora_b"], precision="highest")
            merged[f"{path}kernel"] = params[f"{path}kernel"] + (alpha / a.shape[1]) * change
    return merged


def trained_names(
    params: Iterable[str], adapters: Iterable[str], *, beside: Iterable[str] = HEADS
) -> set[str]:
    """Returns the names of the trained parameters: the adapters, and the whole head with BatchNorm.

    The head is trained whole because a new classifier starts from random weights, which a low-rank
    change can't replace. BatchNorm's statistics are left out, because they have no gradient.
    """
    beside = tuple(beside)
    full = {name for name in params if any(fnmatchcase(name, pattern) for pattern in beside)}
    return set(adapters) | {name for name in full if not name.endswith(STATISTICS)}
