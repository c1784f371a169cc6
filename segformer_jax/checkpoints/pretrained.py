"""Loads, saves and uploads whole models, configs and processors: `from_pretrained` and others."""

import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from segformer_jax.checkpoints import adapter, files, hf_options, hub, int8, mismatch, names, shards
from segformer_jax.checkpoints.flat import Flat, fill, flat_state
from segformer_jax.checkpoints.json_file import read_json, write_json
from segformer_jax.checkpoints.loading_info import Shapes, loading_info
from segformer_jax.checkpoints.prefix import without_prefix
from segformer_jax.config import SegformerConfig
from segformer_jax.errors import WeightsError, listed
from segformer_jax.models.decode_head import FoldedDecodeHead
from segformer_jax.models.foreign import refuse_foreign
from segformer_jax.models.layers import ShapesOnly
from segformer_jax.models.segformer import SegformerModel

Model = TypeVar("Model", bound=nnx.Module)  # one of the three model classes

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
CONVERT = (
    "; copy the config of the model that was trained, or let segformer-jax convert read the sizes "
    "off the weights"
)
HEADS = ("decode_head.", "classifier.")
FIRST_CONV = "stages.0.patch_embeddings.proj.kernel"
# the type of floats in each kind of file; None is the model's
WEIGHTS = {"float": None, "float16": jnp.float16, "int8": jnp.float32}


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a model by their names in the file; without prefix, adapters merged.

    Raises:
        WeightsError: as `read_weights`, `without_prefix` and `adapter.merged`.
    """
    if adapter.is_adapter(path):
        return adapter.merged(path)
    return without_prefix(files.read_weights(path), source=path)


def load_model(
    cls: type[Model],
    name_or_path: str | Path,
    *,
    config: SegformerConfig | None = None,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    torch_dtype: Any = None,
    num_labels: int | None = None,
    id2label: Mapping[int, str] | None = None,
    label2id: Mapping[str, int] | None = None,
    num_channels: int | None = None,
    ignore_mismatched_sizes: bool = False,
    may_start: bool = True,
    output_loading_info: bool = False,
    rngs: nnx.Rngs | None = None,
    **others: Any,
) -> Model | Any:
    """Loads the model of a weights package, folder, file or hub repository, in eval mode.

    If an encoder or classification checkpoint is loaded as a segmentation model, the decode head is
    initialised at random, as in HF, and a warning names the new parameters. If a segmentation
    checkpoint is loaded as another model, its head is left out.

    Args:
        cls: one of the three model classes.
        name_or_path: "scene-b0" (an installed weights package), a folder, a weights file with its
            config.json beside it, or a name on the Hugging Face hub, such as "nvidia/mit-b0".
        config: used instead of the checkpoint's config.json.
        dtype: type of the matrix products, or its name; "auto" is the type stored in the file.
        param_dtype: type of the parameters, likewise; float64 needs `jax_enable_x64`.
        torch_dtype: the old name of `dtype` in transformers.
        num_labels: number of classes; if it differs from the checkpoint's, the classifier is
            initialised at random.
        id2label: names of the classes, instead of their number; those of config.json are not read
            then.
        label2id: accepted for compatibility with HF and ignored, because `id2label` implies it.
        num_channels: number of input channels. If it differs from the checkpoint's, the first
            kernel is summed over its inputs (for one channel), or repeated and scaled so that the
            sum stays the same, as in timm.
        ignore_mismatched_sizes: initialise tensors of another shape at random.
        may_start: if False, raise an error instead of initialising anything at random.
        output_loading_info: also return what was not loaded as it is in the file, as transformers
            does: a dict of `missing_keys`, `unexpected_keys`, `mismatched_keys` (with both shapes)
            and `error_msgs`.
        rngs: seed of new parameters; by default `nnx.Rngs(0)`.
        others: fields of the config to change, such as `drop_path_rate`; and `revision`, `token`,
            `cache_dir`, `local_files_only`, `subfolder`. `attn_implementation` may be "eager" or
            "sdpa", which are the same function.

    Raises:
        WeightsError: nothing of that name exists, a file is damaged, or tensors are missing,
            unexpected or of another shape, which the message lists; or parameters are missing and
            `may_start` is False.
        ValueError: the config is not of a SegFormer, its `id2label` has gaps, `param_dtype` needs
            `jax_enable_x64`, or an option of transformers has no meaning here, such as
            `device_map`.
        TypeError: an option is unknown.
    """
    changes, hub_options = hf_options.sorted_out(others)
    changes |= dict(num_labels=num_labels, id2label=id2label, num_channels=num_channels)
    path = hub.resolve(name_or_path, **hub_options)
    if config is None:
        config = _read_config(path, id2label=id2label)
    config = hf_options.changed(config, changes)
    in_file = read_tensors(path)
    stored = names.to_flax(in_file)
    dtype = hf_options.float_type(dtype if torch_dtype is None else torch_dtype, stored)
    param_dtype = hf_options.float_type(param_dtype, stored)
    if jax.dtypes.canonicalize_dtype(param_dtype) != jnp.dtype(param_dtype):
        raise ValueError(
            f"param_dtype {jnp.dtype(param_dtype).name} needs JAX's 64-bit mode: "
            'call jax.config.update("jax_enable_x64", True) first'
        )

    def build(rngs):
        make: Any = cls
        return make(config, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

    model = nnx.eval_shape(lambda: build(ShapesOnly()))
    wanted = {name: leaf.shape for name, leaf in flat_state(model).items()}
    given = _as(cls, stored, wanted)
    if num_channels is not None:
        _adapt_first_conv(given, wanted)

    replaceable = () if num_labels is None and id2label is None else _classifier(wanted)
    new = {n for n in wanted if _starts_anew(n, given)} | {
        name
        for name in wanted.keys() & given.keys()
        if given[name].shape != wanted[name] and (ignore_mismatched_sizes or name in replaceable)
    }
    read = {n: s for n, s in wanted.items() if n not in new}
    mismatch.check(read, given, new=new, stored=in_file, source=name_or_path)
    started_names = listed(mismatch.names_in_file(sorted(new), in_file))
    other = sorted(new & given.keys()) if replaceable and not may_start else []
    if other:
        raise ValueError(
            f"id2label must name the {given[other[0]].shape[-1]} classes of {name_or_path}, got "
            f"{config.num_labels} names: give one for each, in the order of the model's outputs"
        )
    if new and not may_start:
        raise WeightsError(
            f"{name_or_path} has no trained weights for {cls.__name__}: "
            f"{started_names} are missing; fine-tune it first "
            f"({cls.__name__}.from_pretrained initialises them at random), or name "
            "a checkpoint that has them"
        )
    started = _start(build, new, rngs)
    values = {n: started[n] if n in new else given[n] for n in wanted}
    fill(model, values)
    if new:
        warnings.warn(
            f"{name_or_path} has no fitting weights for some parameters, which are initialised at "
            f"random and must be trained: {started_names}",
            stacklevel=3,
        )
    model.eval()
    if not output_loading_info:
        return model
    unused = {n: t.shape for n, t in stored.items() if n.startswith(HEADS) and n not in given}
    misfits = {name: given[name].shape for name in new & given.keys()}
    return model, loading_info(new={n: wanted[n] for n in new}, unused=unused, misfits=misfits)


def _as(cls: type, given: Flat, wanted: Mapping[str, Any]) -> Flat:
    """Returns the tensors under the names that `cls` uses, without heads that it does not have."""
    given = {_prefixed(name, cls is not SegformerModel): v for name, v in given.items()}
    own = {head for head in HEADS if any(name.startswith(head) for name in wanted)}
    given = {n: v for n, v in given.items() if not n.startswith(tuple(set(HEADS) - own))}
    if any(n.endswith("batch_norm.mean") for n in given):
        counter = "decode_head.batch_norm.num_batches_tracked"
        given.setdefault(counter, np.zeros((), np.int64))
    return given


def _prefixed(name: str, wanted: bool) -> str:
    bare = name.removeprefix("segformer.")
    return f"segformer.{bare}" if wanted and bare.startswith("stages.") else bare


def _starts_anew(name: str, given: Flat) -> bool:
    """Whether a parameter is in a head of which the checkpoint has no tensor at all.

    Such a head is initialised at random. A head of which only some tensors are missing is an error.
    """
    head = next((head for head in HEADS if name.startswith(head)), None)
    return head is not None and not any(other.startswith(head) for other in given)


def _classifier(wanted: Iterable[str]) -> tuple[str, ...]:
    return tuple(n for n in wanted if n.removeprefix("decode_head.").startswith("classifier."))


def _adapt_first_conv(given: Flat, wanted: Shapes) -> None:
    name = next(name for name in wanted if name.endswith(FIRST_CONV))
    if name not in given or given[name].shape == wanted[name]:
        return
    kernel, channels = given[name], wanted[name][2]
    if channels == 1:
        given[name] = kernel.sum(2, keepdims=True)
    else:
        old = kernel.shape[2]
        repeated = np.concatenate([kernel] * -(-channels // old), 2)[:, :, :channels]
        given[name] = (repeated * np.asarray(old / channels, kernel.dtype)).astype(kernel.dtype)


def _start(build: Any, new: set[str], rngs: nnx.Rngs | None) -> Flat:
    """Initialises the named parameters, and nothing else, in one compiled program."""
    if not new:
        return {}

    @jax.jit
    def start(key):
        fresh = flat_state(build(nnx.Rngs(key)))
        return {name: fresh[name] for name in new}

    return start((rngs or nnx.Rngs(0)).params())


# --- saving


def save_model(
    model: Any,
    folder: str | Path,
    *,
    save_original_format: bool = True,
    weights: str = "float",
    max_shard_size: int | str | None = None,
) -> None:
    """Writes `folder`/config.json and model.safetensors, each completely or not at all.

    Args:
        model: one of the three models.
        folder: created if missing.
        save_original_format: use the tensor names of the files on the hub, as transformers does
            by default; False uses those of transformers 5's modules.
        weights: "float" keeps the model's type; "float16" halves the size of a float32 model, and
            transformers reads it; "int8" is a quarter of the size (see `checkpoints.int8`), in the
            file model.int8.safetensors, which transformers does not read.
        max_shard_size: bytes, or "2GB": larger weights are written to several files with an index.
            Weights that an earlier model left in the folder are removed.

    Raises:
        ValueError: the model is folded, so its parameters are not HF's; a layer is not SegFormer's
            or not as in the config; `weights` is unknown, or int8 with `max_shard_size`; a value is
            beyond float16's range; int8 is saved to a folder with float weights, which would be
            read instead; the folder can't be written.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
    if weights == "int8" and max_shard_size is not None:
        raise ValueError(
            f"max_shard_size must be left out for int8 weights, got {max_shard_size!r}: they are "
            "one file"
        )
    folder = Path(folder)
    if type(getattr(model, "decode_head", None)) is FoldedDecodeHead:
        raise ValueError("a folded model can't be saved: save the model that it was made from")
    refuse_foreign(
        model,
        "Hugging Face's layout",
        instead="keep the weights by segformer_jax.checkpoints.flat.save_flat, or the whole model "
        "by export_stablehlo",
    )
    if model.config.layer_norm_epsilons is not None:
        warnings.warn(
            "transformers does not know layer_norm_epsilons: there, this model's LayerNorms have "
            "epsilon 1e-5, so its logits differ a little",
            stacklevel=3,
        )
    if weights == "int8":
        _check_no_floats(folder)
    flat = flat_state(model)
    params = {n: v for n, v in flat.items() if not n.endswith((".mean", ".var", "_tracked"))}
    dtype = jnp.dtype(WEIGHTS[weights] or jnp.result_type(*params.values()))
    tensors = {
        name: np.asarray(value if name.endswith("_tracked") else value.astype(dtype))
        for name, value in flat.items()
    }
    if weights == "float16":
        _check_finite(tensors)
    renamed = names.to_hf(tensors, original_names=save_original_format)
    if weights == "int8":
        files.write_safetensors(int8.quantise(renamed), folder / int8.INT8_FILE)
    else:
        shards.write_weights(renamed, folder, max_shard_size=max_shard_size)
    values = {k: v for k, v in model.config.to_dict().items() if k != "torch_dtype"}
    about = {"architectures": [type(model).__name__], "dtype": dtype.name}
    write_json(values | about, folder / CONFIG)


def _check_finite(halves: Mapping[str, np.ndarray]) -> None:
    beyond = [name for name, tensor in halves.items() if not np.isfinite(tensor).all()]
    if beyond:
        raise ValueError(
            f"float16 weights must be finite and at most 65504, which {listed(sorted(beyond))} "
            "are not: save them as 'float', or use a checkpoint from before training "
            "diverged"
        )


def _check_no_floats(folder: Path) -> None:
    file = files.weights_file(folder)
    if file is not None and file.name in files.FLOATS:
        raise ValueError(
            f"{folder} holds {file.name}, which is read before {int8.INT8_FILE}: save int8 "
            "weights into another folder, or remove the float ones first"
        )


def push_model(
    model: Any,
    repo_id: str,
    *,
    weights: str = "float",
    max_shard_size: int | str | None = None,
    **options: Any,
) -> str:
    """Uploads the files of `save_model`; `options` are those of `hub.upload`."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, folder, weights=weights, max_shard_size=max_shard_size)
        return hub.upload(folder, repo_id, **options)


# --- configs and processors


def load_config(name_or_path: str | Path, **options: Any) -> SegformerConfig:
    """Reads config.json of a weights package, a folder, or a hub repository.

    `options` are as `others` of `load_model`; `label2id` is ignored as there.
    """
    options.pop("label2id", None)
    changes, hub_options = hf_options.sorted_out(options)
    return hf_options.changed(_read_config(hub.resolve(name_or_path, **hub_options)), changes)


def save_config(config: SegformerConfig, folder: str | Path) -> None:
    """Writes `folder`/config.json."""
    write_json(config.to_dict(), Path(folder) / CONFIG)


def load_processor_config(name_or_path: str | Path, **hub_options: Any) -> dict[str, Any]:
    """Reads preprocessor_config.json of a weights package, a folder, or a hub repository.

    Where a checkpoint has none, the result is empty, which means SegFormer's defaults, with a
    warning: training loops save the model alone.
    """
    folder = _folder(hub.resolve(name_or_path, **hub_options), PROCESSOR)
    if (folder / CONFIG).is_file() and not (folder / PROCESSOR).is_file():
        warnings.warn(
            f"{folder} has no {PROCESSOR}: pictures are prepared by SegFormer's defaults, resized "
            "to 512×512 and normalised by ImageNet's mean and deviation; if the model was trained "
            "otherwise, put its file there",
            stacklevel=3,
        )
        return {}
    return _read_json(folder, PROCESSOR)


def save_processor_config(values: Mapping[str, Any], folder: str | Path) -> Path:
    """Writes `folder`/preprocessor_config.json, and returns its path."""
    write_json(values, Path(folder) / PROCESSOR)
    return Path(folder) / PROCESSOR


def push_processor_config(values: Mapping[str, Any], repo_id: str, **options: Any) -> str:
    """Uploads a preprocessor_config.json; `options` are those of `hub.upload`."""
    with tempfile.TemporaryDirectory() as folder:
        save_processor_config(values, folder)
        return hub.upload(folder, repo_id, **options)


def _read_config(path: Path, *, id2label: Mapping[int, str] | None = None) -> SegformerConfig:
    """Reads the config in a folder, or beside a file; `id2label` replaces the names in it."""
    folder = _folder(path, CONFIG)
    values = _read_json(folder, CONFIG)
    if "_model_class" in values:
        raise WeightsError(
            f"{CONFIG} of {folder} must be Hugging Face's, got segmentation_models.pytorch's: "
            f"convert the folder first, by segformer-jax convert {folder} OUT_DIR"
        )
    if "model_type" not in values:
        raise WeightsError(
            f'{CONFIG} of {folder} must have "model_type": "segformer", got no '
            "model_type: add it if this is a SegFormer"
        )
    if id2label is not None:
        values["id2label"] = id2label
    try:
        config = SegformerConfig.from_dict(values)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    classes = adapter.classes_of(path) if folder != path and adapter.is_adapter(path) else None
    if id2label is not None or classes in (None, config.num_labels):
        return config
    config = config.with_labels(num_labels=classes)
    warnings.warn(
        f"the adapters in {path} have {classes} classes, and no {CONFIG} that names them: they are "
        f"called LABEL_0 to LABEL_{config.num_labels - 1}; give their names by id2label",
        stacklevel=3,
    )
    return config


def _folder(path: Path, name: str) -> Path:
    """Returns the folder with a file of this name; for adapters without it, their base's folder."""
    folder = path if path.is_dir() else path.parent
    if not (folder / name).is_file() and adapter.is_adapter(folder):
        base = adapter.base_of(folder)
        return base if base.is_dir() else base.parent
    return folder


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / name).is_file():
        raise WeightsError(
            f"{folder} is not a complete checkpoint: {name} is missing"
            f"{files.flat_hint(folder) or files.checkpoints_inside(folder)}{CONVERT}"
        )
    return read_json(folder / name)
