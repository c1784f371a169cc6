"""One training step: a pure function to be jitted, the same for one device and for many."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, Integer, UInt8

from segformer_jax import ops
from segformer_jax.checkpoints.flat import Flat, Skeleton
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.models.contract import logits_of
from segformer_jax.training.distillation import Distillation
from segformer_jax.training.distortion import distorted
from segformer_jax.training.optimizer import ema_update
from segformer_jax.training.state import TrainState, stats_of

Loss = Callable[[Float[Array, "b h w labels"], Int[Array, "b H W"]], Float[Array, ""]]
Batch = Mapping[str, Array]
Step = Callable[..., tuple[TrainState, dict[str, Array]]]


def make_step(
    skeleton: Skeleton,
    *,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    processor: SegformerImageProcessor,
    platform: str,
    local_batch: bool = False,
    seed: int = 0,
    ema_decay: float | None = None,
    complete: Callable[[Flat], Flat] = dict,
    distillation: Distillation | None = None,
) -> Step:
    """Returns a function of a state and a batch that returns the next state and the step's metrics.

    A batch has `image`, (parts, b, H, W, channels) in 0…255, `mask`, (parts, b, H, W), the arrays
    that `distillation.targets` reads, and, if the step changes colours, those of `distorted`. The
    function's third argument is the teacher's
    parameters, if there are any. The gradients of the parts are averaged, and BatchNorm sees the
    parts one after the other, as in torch when gradients are accumulated. Means are over the whole
    part, also if it is split over several devices.

    Args:
        skeleton: of the model in train mode.
        loss: a function of logits and masks.
        optimizer: updates the trained parameters.
        processor: pixels are normalised by its mean and standard deviation.
        platform: the platform whose forms of the operations are used.
        local_batch: True if the whole batch is on one device; it may then be computed picture by
            picture.
        seed: seed of dropout.
        ema_decay: decay of the moving average of the parameters; None keeps no average.
        complete: turns the trained and frozen parameters into the model's, for example by merging
            adapters.
        distillation: how a teacher's logits count beside the masks.
    """

    def loss_of(params: Flat, frozen: Flat, stats: Flat, batch, targets, key):
        model = skeleton.model(complete({**params, **frozen}) | stats)
        dtype = ops.at_least_float32(jnp.result_type(*params.values()))
        pixels = normalized(batch["image"], processor, dtype)
        logits = logits_of(model, pixels, rngs=nnx.Rngs(dropout=key))
        value = loss(logits, batch["mask"].astype(jnp.int32))
        if distillation is not None:
            value = distillation.loss(value, logits, targets)
        return value, stats_of(model)

    def of_part(params, frozen, stats, teacher, batch, key):
        if "colours" in batch:
            batch = batch | {"image": distorted(batch["image"], batch["colours"], batch["size"])}
        targets = None if distillation is None else distillation.targets(batch, teacher)
        (value, stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            params, frozen, stats, batch, targets, key
        )
        return stats, (value, gradients)

    def step(
        state: TrainState, batch: Batch, teacher: Mapping[str, Array] | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        parts = len(batch["image"])
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step), parts)
        fixed = state.params, state.frozen

        def add(carry, given):  # summed: stacked gradients would take `parts` times the memory
            stats, sums = carry
            stats, (value, own) = of_part(*fixed, stats, teacher or {}, *given)
            return (stats, jax.tree.map(jnp.add, sums, own)), value

        with ops.use(ops.forms_for(platform), local_batch=local_batch):
            if parts == 1:
                alone = {name: array[0] for name, array in batch.items()}
                stats, (value, gradients) = of_part(
                    *fixed, state.stats, teacher or {}, alone, keys[0]
                )
            else:
                none = jax.tree.map(jnp.zeros_like, state.params)
                (stats, sums), values = lax.scan(add, (state.stats, none), (dict(batch), keys))
                value, gradients = jax.tree.map(lambda x: x / parts, (values.sum(), sums))
        updates, moments = optimizer.update(gradients, state.optimizer, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema_decay is not None:
            ema = ema_update(ema, params, decay=ema_decay, step=state.step)
        figures = {"loss": value, "gradient_norm": _norm(gradients)}
        new = replace(
            state, step=state.step + 1, params=params, stats=stats, optimizer=moments, ema=ema
        )
        return new, figures

    return step


def normalized(
    image: UInt8[Array, "b h w c"] | Integer[Array, "b h w c"],
    processor: SegformerImageProcessor,
    dtype: Any,
) -> Float[Array, "b h w c"]:
    """Normalises pixels in 0…255 for the network, as the processor does."""
    mean, std = np.array(processor.image_mean), np.array(processor.image_std)
    scale, shift = processor.rescale_factor / std, mean / std
    return image.astype(dtype) * scale.astype(dtype) - shift.astype(dtype)


def _norm(values: Flat) -> Float[Array, ""]:
    return jnp.sqrt(sum((jnp.square(value).sum() for value in values.values()), jnp.zeros(())))
