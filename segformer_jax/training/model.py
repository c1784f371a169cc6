"""The model of a run: loads or builds it, selects what is trained, and saves it."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from segformer_jax.checkpoints.files import PARAMETERS
from segformer_jax.checkpoints.flat import Flat, save_flat
from segformer_jax.checkpoints.pretrained import load_model
from segformer_jax.config import SegformerConfig
from segformer_jax.images.picture import Picture
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.images.read import read_bands, read_image
from segformer_jax.images.stretch import Stretch, chosen_stretch
from segformer_jax.models import SegformerForSemanticSegmentation, paper_init
from segformer_jax.models.contract import in_use, interface_of
from segformer_jax.models.encoder import Stage
from segformer_jax.models.foreign import MODELS, foreign_parts, in_short
from segformer_jax.training import lora
from segformer_jax.training.defaults import processor_size
from segformer_jax.training.optimizer import frozen
from segformer_jax.training.record import Record
from segformer_jax.training.settings import VARIANTS, ChosenSettings, TrainSettings


def starting_model(
    settings: TrainSettings, id2label: Mapping[int, str]
) -> SegformerForSemanticSegmentation:
    """Returns the model before the first step, in train mode; it is the same in every process.

    A variant's name (b0 to b5) gives random weights (NVlabs' initialisation), any other name those
    of a checkpoint. If the number of classes differs, the classifier's weights are random.

    Raises:
        WeightsError: as `from_pretrained`.
        ValueError: the dtype is float64 without JAX's 64-bit mode, or the model has other input
            channels than the pictures.
    """
    channels = settings.num_channels or 3
    dtype, rngs = jnp.dtype(settings.dtype), nnx.Rngs(settings.seed)
    kept_in = dtype if settings.dtype == "float64" else jnp.float32
    if jax.dtypes.canonicalize_dtype(kept_in) != kept_in:
        raise ValueError(
            "dtype float64 needs JAX's 64-bit mode: set JAX_ENABLE_X64=1, or call "
            'jax.config.update("jax_enable_x64", True)'
        )
    if settings.model in VARIANTS:
        config = getattr(SegformerConfig, settings.model)(
            id2label=dict(id2label), num_channels=channels
        )
        model = SegformerForSemanticSegmentation(
            config, dtype=dtype, param_dtype=kept_in, rngs=rngs
        )
        paper_init(model, rngs=rngs)
    else:
        model = load_model(
            SegformerForSemanticSegmentation,
            settings.model,
            dtype=dtype,
            param_dtype=kept_in,
            id2label=dict(id2label),
            num_channels=None if channels == 3 else channels,
            rngs=rngs,
        )
    if model.config.num_channels != channels:
        raise ValueError(
            f"{settings.model} must have {channels} input channels, as many as are "
            f"read of the pictures, got {model.config.num_channels}: give num_channels "
            f"(--num-channels {model.config.num_channels}) if the pictures have as many bands"
        )
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    return model


def given_model(
    given: nnx.Module, settings: ChosenSettings, id2label: Mapping[int, str]
) -> nnx.Module:
    """Returns a copy of a user's own model before the first step, in train mode.

    Raises:
        ValueError: the model does not return logits of these classes or does not have three input
            channels, or `gradient_checkpointing` is set and it has no `Stage` of SegFormer.
    """
    model = nnx.clone(given)
    parts: list[Any] = [part for _, part in nnx.iter_modules(model)]
    for part in parts:
        config = getattr(part, "config", None)
        if isinstance(config, SegformerConfig) and config.num_labels == len(id2label):
            part.config = config.with_labels(id2label=dict(id2label))
    interface = interface_of(in_use(model), size=settings.crop, id2label=id2label)
    if interface.num_channels != settings.num_channels:
        raise ValueError(
            f"{type(given).__name__} must have {settings.num_channels} input channels, as many as "
            f"are read of the pictures, got {interface.num_channels}: give "
            f"num_channels={interface.num_channels} if the pictures have as many bands"
        )
    if settings.gradient_checkpointing:
        stages = [part for part in parts if isinstance(part, Stage)]
        if not stages:
            raise ValueError(
                f"gradient_checkpointing is for SegFormer's stages, of which {type(given).__name__}"
                " has none: leave it out, and use nnx.remat in the model"
            )
        for stage in stages:
            stage.gradient_checkpointing = True
    model.train()
    return model


def described(given: nnx.Module) -> str:
    """Returns a line that identifies a user's own model: its type and what differs from its config.

    Raises:
        ValueError: it is not an NNX module.
    """
    if not isinstance(given, nnx.Module):
        raise ValueError(f"model must be a flax.nnx.Module, got a {type(given).__name__}")
    foreign = foreign_parts(given) if type(given) in MODELS else []
    return ", ".join([type(given).__name__, *([in_short(foreign)] if foreign else [])])


def kept_apart(model: nnx.Module) -> str | None:
    """Returns why a model can't be saved in Hugging Face's layout; None if it can."""
    foreign = foreign_parts(model)
    if not foreign:
        return None
    return (
        f"Hugging Face's layout can't say {in_short(foreign)}: best/ and last/ keep {PARAMETERS}, "
        "for segformer_jax.checkpoints.flat.load_flat"
    )


def run_processor(record: Record) -> SegformerImageProcessor:
    """Returns the processor that prepares pictures when the run's model is used.

    Its mean and standard deviation are those of the model that the run starts from. They are
    ImageNet's, as in the paper, if the run starts from random weights, from weights without a
    processor's file, or from a model given in Python.
    """
    settings = record.chosen
    start = _first_processor(settings, record.given)
    channels = settings.num_channels
    of_data = channels != start.channels and bool(record.survey.image_mean)
    return SegformerImageProcessor(
        size=processor_size(record.survey, settings.short_side),
        image_mean=record.survey.image_mean if of_data else start.image_mean,
        image_std=record.survey.image_std if of_data else start.image_std,
        do_convert_rgb=None if channels == 3 else False,
        stretch=chosen_stretch(settings.range, settings.stretch) or start.stretch,
        do_reduce_labels=settings.reduce_zero_label,
    )


def run_stretch(settings: TrainSettings, given: nnx.Module | None) -> Stretch | None:
    """Returns how a run's pictures of more than 8 bits become 8: as asked, or as its model does."""
    own = _first_processor(settings, given).stretch
    return chosen_stretch(settings.range, settings.stretch) or own


def reader_of(settings: TrainSettings, given: nnx.Module | None) -> Callable[[Any], Picture]:
    """Returns a function that reads a run's pictures before their number of bands is chosen."""
    stretch = run_stretch(settings, given)
    if settings.num_channels == 3:
        return functools.partial(read_image, stretch=stretch)
    return functools.partial(read_bands, channels=settings.num_channels, stretch=stretch)


def _first_processor(
    settings: TrainSettings, given: nnx.Module | str | None
) -> SegformerImageProcessor:
    """Returns the processor of the weights that a run starts from; the default one without any."""
    if settings.model in VARIANTS or given is not None:
        return SegformerImageProcessor()
    return SegformerImageProcessor.from_pretrained(settings.model)


def trainable(
    settings: TrainSettings, params: Flat
) -> tuple[Flat, Callable[[str], bool], Callable[[Flat], Flat]]:
    """Selects the parameters to train, and adds LoRA's adapters if `lora_rank` is set.

    Returns:
        The parameters with the adapters; whether the parameter of a name is trained; and a function
        that merges the adapters of such parameters into the model's own.

    Raises:
        ValueError: a pattern of `freeze` matches nothing, or, without LoRA, the patterns match all
            parameters.
    """
    kept = frozen(params, settings.freeze)
    if not settings.lora_rank:
        if len(kept) == len(params):
            raise ValueError(
                f"freeze must leave some parameters to train, got {settings.freeze}, "
                "which match all of them"
            )
        return params, lambda name: name not in kept, dict
    key = jax.random.key(settings.seed)
    adapters = lora.add_lora(params, rank=settings.lora_rank, key=key)
    chosen = lora.trained_names(params, adapters) - kept

    def merged(whole: Flat) -> Flat:
        own = {name: whole[name] for name in adapters}
        plain = {name: value for name, value in whole.items() if name not in own}
        return lora.apply_lora(plain, own, alpha=settings.lora_alpha * settings.lora_rank)

    return params | adapters, chosen.__contains__, merged


def save(model: Any, processor: SegformerImageProcessor, folder: Path) -> None:
    """Saves the model in Hugging Face's layout, or only its parameters if that can't express it.

    Each file is written completely or not at all.
    """
    processor.save_pretrained(folder)
    if foreign_parts(model):
        save_flat(model, folder)
    else:
        model.save_pretrained(folder)
