"""Stores the large weights of an ONNX file as float16, at half the size; it computes in float32."""

from pathlib import Path

import numpy as np

from segformer_jax.atomic import atomic_path
from segformer_jax.export.onnx.graph import onnx

SMALLEST = 1024  # numbers in a constant; smaller ones, such as biases, stay float32


def store_half_weights(path: str | Path) -> None:
    """Rewrites the file: large float32 constants become float16, each with a node that widens it.

    Runtimes widen constants once, when they load the file. A constant with a number beyond
    float16's range stays as it is.
    """
    package = onnx()
    model = package.load(path)
    casts = []
    for constant in model.graph.initializer:
        if constant.data_type != package.TensorProto.FLOAT:
            continue
        values = package.numpy_helper.to_array(constant)
        if values.size < SMALLEST or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name, stored = constant.name, f"{constant.name}.half"
        constant.CopyFrom(package.numpy_helper.from_array(values.astype(np.float16), stored))
        cast = dict(name=f"{name}.widen", to=package.TensorProto.FLOAT)
        casts.append(package.helper.make_node("Cast", [stored], [name], **cast))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
