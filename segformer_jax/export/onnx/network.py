"""Writes SegFormer's layers as the ONNX nodes that are fastest in runtimes on CPUs.

There are two layouts. Runtimes convolve maps, (b, c, h, w), fastest; LayerNorm and attention take
tokens, (b, n, c). Blocks take and return tokens. The Mix-FFN works on maps throughout, with 1 × 1
convolutions as its linear layers, so that the few channels before and after it are transposed
instead of the many inside.

In a file of 8 bits, `Graph.rounded` stands at every value that becomes 8 bits. There the second
linear layer of the Mix-FFN is a product of tokens, whose result runtimes leave in float32; that of
a convolution has to be rounded.
"""

from typing import Any

import numpy as np

from segformer_jax.export.onnx.graph import Graph

GELU_SINCE = 20  # the first opset with the operator Gelu


def encode(graph: Graph, encoder: Any, x: str) -> list[str]:
    """Adds the encoder of normalised pixels (b, c, h, w) and returns its feature maps."""
    maps = []
    for index, stage in enumerate(encoder.stages):
        x = _stage(graph, stage, x, encoder.config.hidden_act, f"stages.{index}")
        maps.append(x)
    return maps


def _stage(graph: Graph, stage: Any, x: str, activation: str, name: str) -> str:
    embeddings = stage.patch_embeddings
    x = graph.rounded(x, name=f"{name}.patch_embeddings.input")
    x = _conv(graph, embeddings.proj, x, name=f"{name}.patch_embeddings.proj")
    x = graph.transpose(graph.rounded(x), 0, 2, 3, 1, name=f"{name}.patch_embeddings")
    shape = graph.node("Shape", x, name=f"{name}.shape")  # b h w c
    x = graph.reshape(x, 0, -1, embeddings.proj.kernel.shape[-1], name=f"{name}.patch_embeddings")
    x = _norm(graph, embeddings.layer_norm, x, f"{name}.patch_embeddings.layer_norm")
    for index, block in enumerate(stage.blocks):
        x = _block(graph, block, x, shape, activation, f"{name}.blocks.{index}")
    x = _norm(graph, stage.layer_norm, x, f"{name}.layer_norm")
    return _map(graph, x, shape, name=name)


def _block(graph: Graph, block: Any, x: str, shape: str, activation: str, name: str) -> str:
    y = graph.rounded(_norm(graph, block.layernorm_before, x, f"{name}.layernorm_before"))
    y = _attention(graph, block.attention, y, shape, f"{name}.attention")
    x = graph.node("Add", x, y, name=f"{name}.after_attention")
    y = graph.rounded(_norm(graph, block.layernorm_after, x, f"{name}.layernorm_after"))
    y = _mix_ffn(graph, block.mlp, y, shape, activation, f"{name}.mlp")
    return graph.node("Add", x, y, name=f"{name}.after_mlp")


def _attention(graph: Graph, attention: Any, x: str, shape: str, name: str) -> str:
    small = x
    if (reduction := attention.sequence_reduction) is not None:
        own = f"{name}.sequence_reduction"
        small = _map(graph, x, shape, name=own)
        small = graph.rounded(_conv(graph, reduction.sequence_reduction, small, name=own))
        small = _tokens(graph, small, reduction.sequence_reduction.kernel.shape[-1], name=own)
        small = graph.rounded(_norm(graph, reduction.layer_norm, small, f"{own}.layer_norm"))
    width, heads = attention.q_proj.kernel.shape[-1], attention.heads
    d = width // heads
    q = graph.linear(x, attention.q_proj, factor=d**-0.5, name=f"{name}.q_proj")
    k = graph.linear(small, attention.k_proj, name=f"{name}.k_proj")
    v = graph.linear(small, attention.v_proj, name=f"{name}.v_proj")
    q, k, v = (
        graph.rounded(y, name=f"{name}.product.{own}") for y, own in ((q, "q"), (k, "k"), (v, "v"))
    )
    if heads > 1:
        q, k, v = (graph.reshape(y, 0, -1, heads, d, name=name) for y in (q, k, v))
        q, v = (graph.transpose(y, 0, 2, 1, 3, name=name) for y in (q, v))  # b heads n d
        k = graph.transpose(k, 0, 2, 3, 1, name=name)  # b heads d k
    else:
        k = graph.transpose(k, 0, 2, 1, name=name)  # b d k
    scores = graph.node("MatMul", q, k, name=f"{name}.scores")
    weights = graph.node("Softmax", scores, name=f"{name}.softmax", axis=-1)
    weights = graph.rounded(weights, name=f"{name}.product.weights")
    y = graph.node("MatMul", weights, v, name=f"{name}.values")
    if heads > 1:
        y = graph.transpose(y, 0, 2, 1, 3, name=name)
        y = graph.reshape(y, 0, -1, width, name=name)
    y = graph.rounded(y, name=f"{name}.o_proj.input")
    return graph.linear(y, attention.o_proj, name=f"{name}.o_proj")


def _mix_ffn(graph: Graph, mlp: Any, x: str, shape: str, activation: str, name: str) -> str:
    y = _map(graph, x, shape, name=name)
    y = _pointwise(graph, y, mlp.fc1.kernel[...], mlp.fc1.bias[...], name=f"{name}.fc1")
    own = mlp.dwconv.dwconv
    channels = own.kernel.shape[-1]
    y = graph.conv(
        graph.rounded(y),
        own.kernel[...],
        own.bias[...],
        name=f"{name}.dwconv",
        padding=1,
        group=channels,
    )
    if graph.eight_bits is not None:
        y = _tokens(graph, graph.rounded(y, then=activation), channels, name=name)
        y = graph.rounded(_activation(graph, y, activation, f"{name}.{activation}"))
        return graph.linear(y, mlp.fc2, name=f"{name}.fc2")
    y = _activation(graph, y, activation, f"{name}.{activation}")
    y = _pointwise(graph, y, mlp.fc2.kernel[...], mlp.fc2.bias[...], name=f"{name}.fc2")
    return _tokens(graph, y, mlp.fc2.kernel.shape[-1], name=name)


def _activation(graph: Graph, x: str, kind: str, name: str) -> str:
    if kind == "relu":
        return graph.node("Relu", x, name=name)
    if kind in ("silu", "swish"):
        return graph.node("Mul", x, graph.node("Sigmoid", x, name=name), name=name)
    if graph.opset >= GELU_SINCE:
        approximate = "tanh" if kind == "gelu_new" else "none"
        return graph.node("Gelu", x, name=name, approximate=approximate)
    return _gelu_by_tanh(graph, x, name) if kind == "gelu_new" else _gelu_by_erf(graph, x, name)


def _gelu_by_erf(graph: Graph, x: str, name: str) -> str:
    """Adds GELU as torch's exporter writes it: runtimes recognise and fuse these nodes."""
    y = graph.node("Div", x, graph.weight(2**0.5, name=f"{name}.root"), name=name)
    y = graph.node("Erf", y, name=name)
    y = graph.node("Add", y, graph.weight(1, name=f"{name}.one"), name=name)
    y = graph.node("Mul", x, y, name=name)
    return graph.node("Mul", y, graph.weight(0.5, name=f"{name}.half"), name=name)


def _gelu_by_tanh(graph: Graph, x: str, name: str) -> str:
    """Adds x/2 · (1 + tanh(√(2/π) · x · (1 + 0.044715 x²)))."""
    y = graph.node("Mul", x, x, name=name)
    y = graph.node("Mul", y, graph.weight(0.044715, name=f"{name}.cubic"), name=name)
    one = graph.weight(1, name=f"{name}.one")
    y = graph.node("Mul", x, graph.node("Add", y, one, name=name), name=name)
    y = graph.node("Mul", y, graph.weight((2 / np.pi) ** 0.5, name=f"{name}.root"), name=name)
    y = graph.node("Add", graph.node("Tanh", y, name=name), one, name=name)
    y = graph.node("Mul", x, y, name=name)
    return graph.node("Mul", y, graph.weight(0.5, name=f"{name}.half"), name=name)


def decode(graph: Graph, head: Any, maps: list[str]) -> str:
    """Adds the folded head and returns the logits (b, labels, h, w) at the first map's size."""
    size = graph.sizes(maps[0], 2, 4, name="decode_head.size")
    first, *deeper = (
        graph.rounded(x, name=f"decode_head.kernels.{index}.input") for index, x in enumerate(maps)
    )
    total = _pointwise(
        graph, first, head.kernels[0][...], head.bias[...], name="decode_head.kernels.0"
    )
    total = graph.rounded(total)
    for index, x in enumerate(deeper, start=1):
        name = f"decode_head.kernels.{index}"
        y = graph.rounded(_pointwise(graph, x, head.kernels[index][...], None, name=name))
        y = resized(graph, y, size, name=name)
        total = graph.node("Add", total, y, name=f"{name}.add")
    x = graph.rounded(graph.node("Relu", total, name="decode_head.relu"))
    kernel, bias = head.classifier.kernel[...], head.classifier.bias[...]
    return _pointwise(graph, x, kernel, bias, name="decode_head.classifier")


def resized(graph: Graph, x: str, size: str, *, name: str) -> str:
    """Resizes a map (b, c, h, w) to `size`, a tensor of 2 integers, bilinearly as torch does."""
    channels = graph.sizes(x, 0, 2, name=f"{name}.channels")
    whole = graph.node("Concat", channels, size, name=f"{name}.sizes", axis=0)
    return graph.node(
        "Resize",
        x,
        "",
        "",
        whole,
        name=f"{name}.resize",
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )


def _pointwise(graph: Graph, x: str, kernel: Any, bias: Any, *, name: str) -> str:
    return graph.conv(x, np.asarray(kernel)[None, None], bias, name=name)


def _conv(graph: Graph, layer: Any, x: str, *, name: str) -> str:
    return graph.conv(
        x,
        layer.kernel[...],
        layer.bias[...],
        name=name,
        stride=layer.stride,
        padding=layer.padding,
    )


def _norm(graph: Graph, layer: Any, x: str, name: str) -> str:
    return graph.layer_norm(x, layer, epsilon=layer.epsilon, name=name)


def _tokens(graph: Graph, x: str, channels: int, *, name: str) -> str:
    """Converts a map to tokens, (b, c, h, w) → (b, h·w, c)."""
    x = graph.transpose(x, 0, 2, 3, 1, name=name)
    return graph.reshape(x, 0, -1, channels, name=name)


def _map(graph: Graph, x: str, shape: str, *, name: str) -> str:
    """Converts tokens to a map, (b, h·w, c) → (b, c, h, w); `shape` holds b, h, w and c."""
    x = graph.node("Reshape", x, shape, name=f"{name}.reshape")
    return graph.transpose(x, 0, 3, 1, 2, name=name)
