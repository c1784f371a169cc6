"""SegFormer in plain JAX, in the order of the paper (Xie et al. 2021, arXiv:2105.15203).

    python examples/plain_segformer.py examples/street.jpg --out street.png
    python examples/plain_segformer.py photo.jpg --model FOLDER --out classes.png

The library computes the same function faster, equal to 1e-12 in float64. Maps are (b, h, w, c).
Parameters are a dict of arrays: `segformer.stages.0.blocks.1.attention.q_proj.kernel` and so on.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import lax
from PIL import Image, ImageOps

from segformer_jax import SegformerConfig, SegformerImageProcessor
from segformer_jax.checkpoints import files, hub, names
from segformer_jax.images.labels import palette_for


def segformer(params, config, pixels):
    """Computes the logits of normalised pictures, at 1/4 of their size (figure 2 of the paper)."""
    x, maps = pixels, []
    for i in range(config.num_encoder_blocks):
        stage = f"segformer.stages.{i}"
        x = patch_embeddings(params, config, f"{stage}.patch_embeddings", x, i)
        for j in range(config.depths[i]):
            x = block(params, config, f"{stage}.blocks.{j}", x, i)
        x = layer_norm(params, f"{stage}.layer_norm", x)
        maps.append(x)
    return decode_head(params, "decode_head", maps)


# --- 3.1, the encoder: a hierarchy of grids at 1/4, 1/8, 1/16 and 1/32 of the picture


def patch_embeddings(params, config, name, x, stage):
    """Overlapped patch merging: a convolution whose patches overlap makes the grid smaller."""
    padding, stride = config.patch_sizes[stage] // 2, config.strides[stage]
    x = conv(params, f"{name}.proj", x, stride=stride, padding=padding)
    return layer_norm(params, f"{name}.layer_norm", x)


def block(params, config, name, x, stage):
    """Attention, then Mix-FFN, each after a layer norm and with a skip connection around both."""
    y = layer_norm(params, f"{name}.layernorm_before", x)
    x = x + attention(params, config, f"{name}.attention", y, stage)
    y = layer_norm(params, f"{name}.layernorm_after", x)
    return x + mix_ffn(params, config, f"{name}.mlp", y)


def attention(params, config, name, x, stage):
    """Efficient self-attention: keys and values come from a grid `ratio` times smaller per side."""
    b, h, w, c = x.shape
    heads, ratio = config.num_attention_heads[stage], config.sr_ratios[stage]
    small = x
    if ratio > 1:
        reduction = f"{name}.sequence_reduction"
        small = conv(params, f"{reduction}.sequence_reduction", x, stride=ratio, padding=0)
        small = layer_norm(params, f"{reduction}.layer_norm", small)
    q, k, v = (
        linear(params, f"{name}.{projection}_proj", y).reshape(b, -1, heads, c // heads)
        for projection, y in (("q", x), ("k", small), ("v", small))
    )
    wide = jnp.promote_types(x.dtype, jnp.float32)  # half precision is too coarse for a softmax
    scores = jnp.einsum("bnhd,bkhd->bhnk", q, k, preferred_element_type=wide)
    weights = jax.nn.softmax(scores * (c // heads) ** -0.5, axis=-1).astype(x.dtype)
    y = jnp.einsum("bhnk,bkhd->bnhd", weights, v).reshape(b, h, w, c)
    return linear(params, f"{name}.o_proj", y)


def mix_ffn(params, config, name, x):
    """An MLP with a 3 × 3 depthwise convolution inside, which replaces a positional encoding."""
    x = linear(params, f"{name}.fc1", x)
    x = conv(params, f"{name}.dwconv.dwconv", x, padding=1, groups=x.shape[-1])
    gelu = partial(jax.nn.gelu, approximate=config.hidden_act == "gelu_new")  # else exact, by erf
    activation = gelu if "gelu" in config.hidden_act else getattr(jax.nn, config.hidden_act)
    return linear(params, f"{name}.fc2", activation(x))


# --- 3.2, the decoder: maps are projected to one width, resized to 1/4, concatenated and fused


def decode_head(params, name, maps):
    """The lightweight all-MLP decoder: the deepest map goes first into the concatenation."""
    _, h, w, _ = maps[0].shape
    projections = [f"{name}.linear_projections.{i}.proj" for i in range(len(maps))]
    maps = [resize(linear(params, p, x), h, w) for p, x in zip(projections, maps, strict=True)]
    x = linear(params, f"{name}.linear_fuse", jnp.concatenate(maps[::-1], axis=-1))
    x = jax.nn.relu(batch_norm(params, f"{name}.batch_norm", x))
    return linear(params, f"{name}.classifier", x)


def linear(params, name, x):
    y = x @ params[f"{name}.kernel"].astype(x.dtype)
    return y + params[f"{name}.bias"].astype(x.dtype) if f"{name}.bias" in params else y


def conv(params, name, x, *, padding, stride=1, groups=1):
    """Convolution, zero-padded equally on all sides: "SAME" shifts pictures at strides 2 and 4."""
    kernel = params[f"{name}.kernel"].astype(x.dtype)
    options = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)
    y = lax.conv_general_dilated(x, kernel, (stride,) * 2, ((padding,) * 2,) * 2, **options)
    return y + params[f"{name}.bias"].astype(x.dtype)


def layer_norm(params, name, x):
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + 1e-5)
    return (y * params[f"{name}.scale"] + params[f"{name}.bias"]).astype(x.dtype)


def batch_norm(params, name, x):
    mean, var, scale, bias = (params[f"{name}.{leaf}"] for leaf in ("mean", "var", "scale", "bias"))
    factor = lax.rsqrt(var + 1e-5) * scale
    return x * factor.astype(x.dtype) + (bias - mean * factor).astype(x.dtype)


def resize(x, height, width):
    """Bilinear resizing as torch's `align_corners=False`, without antialiasing."""
    return jax.image.resize(x, (len(x), height, width, x.shape[-1]), "bilinear", antialias=False)


def load(model):
    """Loads the parameters and config of a weights package, a folder or a name on the hub."""
    tensors = names.to_flax(files.read_weights(hub.resolve(model)))
    params = {name: jnp.asarray(value, jnp.float32) for name, value in tensors.items()}
    return params, SegformerConfig.from_pretrained(model)


def main():
    parser = argparse.ArgumentParser(description="Draws the classes of a photo.")
    parser.add_argument("photo", type=Path)
    parser.add_argument("--model", default="scene-b0")
    parser.add_argument("--out", type=Path, default=Path("classes.png"))
    given = parser.parse_args()
    params, config = load(given.model)
    photo = ImageOps.exif_transpose(Image.open(given.photo)).convert("RGB")
    pixels = SegformerImageProcessor.from_pretrained(given.model)(photo)["pixel_values"]
    logits = jax.jit(segformer, static_argnums=1)(params, config, pixels)
    classes = resize(logits, photo.height, photo.width)[0].argmax(-1)
    Image.fromarray(palette_for(config.id2label)[classes]).save(given.out)


if __name__ == "__main__":
    main()
