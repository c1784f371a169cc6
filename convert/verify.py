"""Compares this library with transformers on the same weights and picture, stage by stage."""

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segformer_jax.checkpoints import files, hub
from segformer_jax.checkpoints.pretrained import load_config, load_model, save_model
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.models.segformer import SegformerModel, model_class

BOUNDS = {"float32": 1e-4, "float64": 1e-9}  # limits of the largest difference ÷ the largest value
PRECISIONS = tuple(BOUNDS)


def compare_with_torch(name_or_path: str, *, image: Path | None = None) -> dict[str, Any]:
    """Compares every feature map and the logits with those of transformers' PyTorch model.

    transformers reads the files of a folder or hub repository itself. A single file, which may
    have any name, and int8 weights are first saved by this library, in a form it can read.

    Args:
        name_or_path: any of the three models: a weights package, folder or hub name.
        image: the picture; None uses normally distributed pixels, 512 × 512.

    Returns:
        `stages`: the largest difference by stage and precision. `argmax_agreement`: the share of
        cells of the last stage with the same argmax, by precision. `equal`: whether every
        difference is within `BOUNDS` of the largest value and the argmax agrees on 99.99 %. Other
        entries say what was compared: `model`, `image`, `precisions` and the versions used.

    Raises:
        ImportError: torch or transformers is not installed.
        WeightsError: as `load_model`.
    """
    torch, transformers = _torch_and_transformers()
    pixel_values = _pixels(name_or_path, image)
    kind: Any = model_class(load_config(name_or_path))
    source = hub.resolve(name_or_path)
    stages: dict[str, dict[str, float]] = {}
    relative, agreement = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        itself = source.is_dir() and not files.is_int8(source)
        readable = source if itself else Path(folder)
        for precision in PRECISIONS:
            x = pixel_values.astype(precision)
            with jax.enable_x64(precision == "float64"), jax.default_matmul_precision("highest"):
                dtype = jnp.dtype(precision)
                model = load_model(kind, name_or_path, dtype=dtype, param_dtype=dtype)
                if readable != source:
                    save_model(model, readable)
                ours = _ours(model, x)
            theirs = _theirs(torch, transformers, kind.__name__, readable, x)
            differences = {n: float(np.abs(ours[n] - theirs[n]).max()) for n in theirs}
            for name, difference in differences.items():
                stages.setdefault(name, {})[precision] = difference
            relative[precision] = max(
                difference / float(np.abs(theirs[name]).max())
                for name, difference in differences.items()
            )
            last = list(theirs)[-1]
            same = ours[last].argmax(-1) == theirs[last].argmax(-1)
            agreement[precision] = float(same.mean())
    return {
        "model": name_or_path,
        "image": None if image is None else str(image),
        "precisions": list(PRECISIONS),
        "stages": stages,
        "argmax_agreement": agreement,
        "equal": all(relative[p] <= BOUNDS[p] and agreement[p] >= 0.9999 for p in PRECISIONS),
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }


def _torch_and_transformers() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(
            f"comparing with PyTorch needs torch and transformers ({error}): pip "
            "install 'segformer-jax[convert]'"
        ) from error
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers


def _pixels(name_or_path: str, image: Path | None) -> np.ndarray:
    config = load_config(name_or_path)
    if image is None:
        shape = (1, 512, 512, config.num_channels)
        return np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return SegformerImageProcessor.from_pretrained(name_or_path)(image)["pixel_values"]


def _ours(model: Any, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
    options = {} if isinstance(model, SegformerModel) else {"output_hidden_states": True}
    outputs = jax.jit(lambda x: model(x, **options))(pixel_values)
    return {name: np.asarray(value) for name, value in _stages(outputs)}


def _theirs(
    torch: Any, transformers: Any, kind: str, folder: Path, pixel_values: np.ndarray
) -> dict[str, np.ndarray]:
    dtype = getattr(torch, str(pixel_values.dtype))
    model = getattr(transformers, kind).from_pretrained(folder, dtype=dtype)
    model.set_attn_implementation(_exact_attention(torch))
    with torch.no_grad():
        pixels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixel_values, -1, 1)))
        outputs = model.eval()(pixels, output_hidden_states=True)
    return {
        name: np.moveaxis(x.numpy(), 1, -1) if x.ndim == 4 else x.numpy()
        for name, x in _stages(outputs)
    }


def _stages(outputs: Any) -> list[tuple[str, Any]]:
    stages = [(f"stage {i + 1}", x) for i, x in enumerate(outputs.hidden_states)]
    logits = getattr(outputs, "logits", None)
    return stages if logits is None else [*stages, ("logits", logits)]


def _exact_attention(torch: Any) -> str:
    """Registers and names an exact attention: transformers' rounds its softmax to float32."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def attend(module, query, key, value, mask, scaling=None, dropout=0.0, **_):
        weights = torch.softmax(query @ key.transpose(2, 3) * scaling, -1)
        return (weights @ value).transpose(1, 2).contiguous(), weights

    ALL_ATTENTION_FUNCTIONS.register("segformer_jax_exact", attend)
    return "segformer_jax_exact"
