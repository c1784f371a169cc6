"""KerasHub's SegFormer (keras-hub 0.32, Keras 3.15) on JAX, with the weights of a folder.

KerasHub has no converter for transformers' SegFormer, so this module assigns each tensor.

What is timed is `jax.jit` of `model.stateless_call`, Keras's documented way to run a model under
JAX: as fast as `predict_on_batch`, which also copies to and from NumPy; `predict` is slower. The
model ends at the classifier: `SegFormerImageSegmenter` then resizes its logits to the picture's
size, work that the others aren't measured with. There is no softmax in it.

It differs from transformers' model in two places, neither of them an option of its constructors:
GELU is the tanh approximation (`keras.ops.gelu`'s default), and the two LayerNorms of each block
have an epsilon of 1e-6 instead of 1e-5. For a photo of 512² and trained b0 weights, the logits are
1.4e-4 of their norm away (noise: 3.5e-4), with the same class at 99.99 % of the positions. With
both places patched the distance is 2.5e-7, which shows that every tensor is in its place. With
freshly initialised weights it is 9e-7 even without patches, because activations near 0 are almost
the same in both GELUs.

So assert a relative L2 distance ≤ 5e-4 and ≥ 99.9 % equal classes for a photo with trained
weights. One pair of tensors swapped or one kernel not transposed gives 4e-3 or more, one query
bias left at 0 gives 1e-3. Freshly initialised weights (≤ 1e-5) prove less: their norms and biases
are all alike.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contender import Forward
from benchmarks.peers.keras_on_jax import jitted, missing, use_jax


def forward(folder: Path, *, height: int, width: int, dtype: str) -> Forward:
    """Returns the jitted `SegFormerImageSegmenter` up to its logits at a quarter of the size.

    Raises:
        ImportError: KerasHub isn't installed.
        KeyError: a tensor is missing.
        ValueError: the picture isn't square (its blocks take the grid's side to be the root of the
            number of tokens) or its side isn't a multiple of 32 (its reshapes fail); `dtype` is
            bfloat16; Keras has another backend; or the weights do not fit.
    """
    keras = use_jax("KerasHub", height=height, width=width, dtype=dtype)
    try:
        import keras_hub
    except ImportError as error:
        raise missing(error) from error
    from safetensors.numpy import load_file

    config = json.loads((Path(folder) / "config.json").read_text())
    tensors = load_file(Path(folder) / "model.safetensors")
    encoder = keras_hub.models.MiTBackbone(
        image_shape=(height, width, 3),
        num_layers=config["num_encoder_blocks"],
        hidden_dims=config["hidden_sizes"],
        layerwise_depths=config["depths"],
        layerwise_num_heads=config["num_attention_heads"],
        layerwise_sr_ratios=config["sr_ratios"],
        layerwise_patch_sizes=config["patch_sizes"],
        layerwise_strides=config["strides"],
        max_drop_path_rate=0.0,
    )
    backbone = keras_hub.models.SegFormerBackbone(
        image_encoder=encoder, projection_filters=config["decoder_hidden_size"]
    )
    classes = tensors["decode_head.classifier.bias"].size
    segmenter = keras_hub.models.SegFormerImageSegmenter(backbone=backbone, num_classes=classes)
    _load(segmenter, tensors)
    model = keras.Model(segmenter.inputs, segmenter.output_segmentation_head.output)
    return jitted(model)


def _load(segmenter: Any, tensors: dict[str, np.ndarray]) -> None:
    """Assigns each tensor to its variable, every one once; Keras refuses a shape that doesn't fit.

    Raises:
        KeyError: a tensor is missing, or a variable is named twice.
        ValueError: a shape doesn't fit, or tensors or variables are left over.
    """
    free = {id(variable): variable.path for variable in segmenter.weights}
    left = {name for name in tensors if not name.endswith("num_batches_tracked")}
    for name, layer in _layers(segmenter):
        suffixes = ("weight", "bias", "running_mean", "running_var")
        for suffix, variable in zip(suffixes, layer.weights, strict=False):
            tensor = tensors[f"{name}.{suffix}"]
            if tensor.ndim == 2:
                tensor = tensor.T
            elif tensor.ndim == 4:  # o i h w → h w i o, or for depthwise c 1 h w → h w c 1
                depthwise = name.endswith("dwconv")
                tensor = tensor.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
            variable.assign(tensor)
            del free[id(variable)]
            left.remove(f"{name}.{suffix}")
    if free or left:
        raise ValueError(f"without a tensor: {sorted(free.values())}; not used: {sorted(left)}")


def _layers(segmenter: Any) -> Iterator[tuple[str, Any]]:
    """Yields each layer that holds variables, with its name in transformers' files."""
    backbone = segmenter.backbone
    encoder = backbone.image_encoder
    norms = [layer for layer in encoder.layers if type(layer).__name__ == "LayerNormalization"]
    for i, depth in enumerate(encoder.layerwise_depths):
        patches = encoder.get_layer(f"patch_and_embed_{i}")
        yield f"segformer.encoder.patch_embeddings.{i}.proj", patches.proj
        yield f"segformer.encoder.patch_embeddings.{i}.layer_norm", patches.norm
        for j in range(depth):
            name = f"segformer.encoder.block.{i}.{j}"
            block = encoder.get_layer(f"hierarchical_encoder_{i}_{j}")
            yield f"{name}.layer_norm_1", block.norm1
            yield f"{name}.attention.self.query", block.attn.q
            yield f"{name}.attention.self.key", block.attn.k
            yield f"{name}.attention.self.value", block.attn.v
            yield f"{name}.attention.output.dense", block.attn.proj
            if block.attn.sr_ratio > 1:
                yield f"{name}.attention.self.sr", block.attn.sr
                yield f"{name}.attention.self.layer_norm", block.attn.norm
            yield f"{name}.layer_norm_2", block.norm2
            yield f"{name}.mlp.dense1", block.mlp.fc1
            yield f"{name}.mlp.dwconv.dwconv", block.mlp.dwconv
            yield f"{name}.mlp.dense2", block.mlp.fc2
        yield f"segformer.encoder.layer_norm.{i}", norms[i]
        yield f"decode_head.linear_c.{i}.proj", backbone.mlp_blocks[i]
    fuse, batch_norm, _ = backbone.linear_fuse.layers
    yield "decode_head.linear_fuse", fuse
    yield "decode_head.batch_norm", batch_norm
    yield "decode_head.classifier", segmenter.output_segmentation_head
