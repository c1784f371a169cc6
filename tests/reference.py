"""The PyTorch side of the tests: models of transformers with random weights, exact in float64."""

import jax
import numpy as np
import torch
import transformers
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

TINY = dict(
    hidden_sizes=[8, 12, 16, 24],
    num_attention_heads=[1, 2, 2, 3],
    depths=[2, 1, 1, 1],
    mlp_ratios=[2, 2, 3, 2],
    decoder_hidden_size=16,
    num_labels=7,
    drop_path_rate=0.0,
    classifier_dropout_prob=0.0,
)


def _exact_attention(module, query, key, value, mask, scaling=None, dropout=0.0, **_):
    """Exact attention: transformers' own round the softmax to float32, or return no weights."""
    weights = torch.softmax(query @ key.transpose(2, 3) * scaling, -1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


ALL_ATTENTION_FUNCTIONS.register("exact", _exact_attention)


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Sets all parameters and statistics to random values; zeros and ones would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like, scale):
        return torch.randn(like.shape, generator=generator, dtype=torch.float64) * scale

    with torch.no_grad():
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if weight is None:
                continue
            if isinstance(module, torch.nn.LayerNorm | torch.nn.BatchNorm2d):
                weight.copy_(1 + 0.3 * normal(weight, 1))
            else:
                weight.copy_(normal(weight, weight[0].numel() ** -0.5))
            if module.bias is not None:
                module.bias.copy_(normal(module.bias, 0.3))
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.copy_(normal(weight, 0.5))
                module.running_var.copy_(0.5 + normal(weight, 1).abs())
                module.num_batches_tracked.fill_(17)
    return model


def hf_model(kind: str, *, seed: int = 0, **config) -> torch.nn.Module:
    """A random tiny model: kind is Model, ForSemanticSegmentation or ForImageClassification."""
    config = transformers.SegformerConfig(**(TINY | config))
    torch.manual_seed(seed)
    model = getattr(transformers, f"Segformer{kind}")(config)
    model.set_attn_implementation("exact")
    return randomize(model, seed).eval()


def class_maps(model: torch.nn.Module, photos: np.ndarray) -> np.ndarray:
    """Returns the classes of uint8 photos (b, h, w, 3), by transformers' processor and rule."""
    processor = transformers.SegformerImageProcessorPil(do_resize=False)
    values = processor(list(photos), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = model(values.double()).logits
        wide = torch.nn.functional.interpolate(logits, photos.shape[1:3], mode="bilinear")
    return (wide.argmax(1) if wide.shape[1] > 1 else wide[:, 0] > 0).numpy()


def pixels(height: int, width: int, *, batch: int = 2, channels: int = 3, seed: int = 0):
    """Returns random normalised pictures, NHWC float64."""
    return np.random.default_rng(seed).normal(size=(batch, height, width, channels))


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def nhwc(x: torch.Tensor) -> np.ndarray:
    x = x.detach().numpy()
    return np.moveaxis(x, 1, -1) if x.ndim == 4 else x


def distance(ours, reference) -> float:
    """Returns the relative error, ‖ours - reference‖ / ‖reference‖."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


def flat(tree) -> dict[str, np.ndarray]:
    """Returns the leaves of a Flax state by their dotted paths."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}
