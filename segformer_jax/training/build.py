"""Builds the compiled step and the first state of a run from its record."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from segformer_jax.checkpoints.flat import Flat, Skeleton
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.training import model as models
from segformer_jax.training import sharding, state
from segformer_jax.training.defaults import class_weights
from segformer_jax.training.distillation import Distillation
from segformer_jax.training.losses import make_loss
from segformer_jax.training.optimizer import make_optimizer
from segformer_jax.training.record import Record
from segformer_jax.training.schedule import cosine_with_warmup, poly_with_warmup
from segformer_jax.training.settings import ChosenSettings
from segformer_jax.training.state import TrainState
from segformer_jax.training.step import Batch, make_step
from segformer_jax.training.teacher import distillation


@dataclass(frozen=True)
class Built:
    """The parts of a run that stay the same from step to step.

    Attributes:
        compiled: the jitted step of `make_step`; it donates the state that it is given.
        schedule: the encoder's learning rate as a function of the number of steps taken.
        processor: prepares pictures when the model is used.
        mesh: the devices.
        skeleton: the model without its values.
        complete: turns the parameters of a state into the model's, by merging adapters.
        distillation: how the run learns from a teacher; None without one.
    """

    compiled: Any
    schedule: Callable[[Any], Any]
    processor: SegformerImageProcessor
    mesh: Mesh
    skeleton: Skeleton
    complete: Callable[[Flat], Flat]
    distillation: Distillation | None

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        """Runs one step; returns the next state and the metrics. The given state is donated."""
        return self.compiled(state, batch, self.distillation.values if self.distillation else {})

    def model(self, now: TrainState) -> Any:
        """Returns the model to save, in eval mode, with averaged weights and merged adapters.

        Every process gets all values, so all processes must call this.
        """
        parts = {**now.averaged, **now.frozen}, now.stats
        params, stats = jax.tree.map(jnp.asarray, sharding.gathered(parts))
        model = self.skeleton.model(self.complete(params) | stats)
        model.eval()
        return model


def build(record: Record, given: nnx.Module | None = None) -> tuple[Built, TrainState]:
    """Builds the compiled step and the first state, placed on the devices.

    Args:
        record: of the run.
        given: the model to train, instead of the one that the settings name.

    Raises:
        ValueError: the settings do not fit the model, the loss, the optimizer or the teacher.
        WeightsError: as `from_pretrained`.
    """
    settings = record.chosen
    if given is None:
        model: Any = models.starting_model(settings, record.id2label)
    else:
        model = models.given_model(given, settings, record.id2label)
    processor = models.run_processor(record)
    skeleton, params, stats = state.split(model)
    params, trained, complete = models.trainable(settings, params)
    schedule = _schedule(settings)
    optimizer = make_optimizer(
        [name for name in params if trained(name)],
        learning_rate=schedule,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        head_factor=settings.head_factor,
        layer_decay=settings.layer_decay,
    )
    mesh = sharding.make_mesh()
    teaching = distillation(settings, record.id2label, soft=record.soft, mesh=mesh)
    weights = settings.loss_weights or (1.0,) * len(settings.losses)
    step = make_step(
        skeleton,
        loss=make_loss(
            tuple(zip(settings.losses, weights, strict=True)),
            num_labels=len(record.id2label),
            class_weights=class_weights(settings.class_weights, record.survey),
            label_smoothing=settings.label_smoothing,
            denominator=settings.denominator,
            ohem_threshold=settings.ohem_threshold,
            ohem_min_kept=settings.ohem_min_kept,
            focal_gamma=settings.focal_gamma,
            dice_smooth=settings.dice_smooth,
            tversky_alpha=settings.tversky_alpha,
            tversky_beta=settings.tversky_beta,
            tversky_gamma=settings.tversky_gamma,
            tversky_smooth=settings.tversky_smooth,
            jaccard_smooth=settings.jaccard_smooth,
        ),
        optimizer=optimizer,
        processor=processor,
        seed=settings.seed,
        ema_decay=settings.ema,
        complete=complete,
        platform=jax.devices()[0].platform,
        local_batch=mesh.size == 1,
        distillation=teaching,
    )
    beginning = state.start(
        params, stats, trained=trained, optimizer=optimizer, ema=settings.ema is not None
    )
    where = sharding.state_sharding(beginning, mesh, fsdp=settings.fsdp)
    compiled = jax.jit(step, donate_argnums=0, out_shardings=(where, None))
    built = Built(compiled, schedule, processor, mesh, skeleton, complete, teaching)
    return built, sharding.place(beginning, where)


def _schedule(settings: ChosenSettings) -> Callable[[Any], Any]:
    make = poly_with_warmup if settings.schedule == "poly" else cosine_with_warmup
    return make(settings.lr, steps=settings.steps, warmup=settings.warmup)
