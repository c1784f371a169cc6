"""Builds an ONNX graph node by node."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np


class Graph:
    """Nodes in the order that they run in, and the constants that they read.

    A value goes by its node's name, so that a viewer shows which layer it is of.

    Args:
        opset: of ONNX's standard operators.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._taken: dict[str, int] = {}

    def node(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Appends an operator; its output's name. An empty input is left out."""
        name = self._free(name)
        make = onnx().helper.make_node
        self.nodes.append(make(operator, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, value: Any, *, name: str) -> str:
        """A float32 constant."""
        return self._constant(np.asarray(value, np.float32), name)

    def integers(self, *values: int, name: str = "sizes") -> str:
        """An int64 constant of one axis."""
        return self._constant(np.array(values, np.int64), name)

    def linear(self, x: str, layer: Any, *, factor: float = 1, name: str) -> str:
        """A `Linear` of the last axis, times a factor."""
        kernel = self.weight(layer.kernel[...] * np.float32(factor), name=f"{name}.weight")
        y = self.node("MatMul", x, kernel, name=name)
        bias = self.weight(layer.bias[...] * np.float32(factor), name=f"{name}.bias")
        return self.node("Add", y, bias, name=f"{name}.add")

    def conv(
        self,
        x: str,
        kernel: Any,
        bias: Any = None,
        *,
        name: str,
        stride: int = 1,
        padding: int = 0,
        group: int = 1,
    ) -> str:
        """A convolution of (b, c, h, w) by a kernel (size, size, inputs, outputs)."""
        kernel = np.asarray(kernel, np.float32)
        inputs = [self.weight(kernel.transpose(3, 2, 0, 1), name=f"{name}.weight")]
        if bias is not None:
            inputs.append(self.weight(bias, name=f"{name}.bias"))
        return self.node(
            "Conv",
            x,
            *inputs,
            name=name,
            kernel_shape=kernel.shape[:2],
            strides=[stride] * 2,
            pads=[padding] * 4,
            group=group,
        )

    def layer_norm(self, x: str, layer: Any, *, epsilon: float, name: str) -> str:
        """A `LayerNorm` of the last axis."""
        scale = self.weight(layer.scale[...], name=f"{name}.weight")
        bias = self.weight(layer.bias[...], name=f"{name}.bias")
        return self.node("LayerNormalization", x, scale, bias, name=name, axis=-1, epsilon=epsilon)

    def transpose(self, x: str, *axes: int, name: str) -> str:
        """The axes in another order."""
        return self.node("Transpose", x, name=f"{name}.transpose", perm=axes)

    def reshape(self, x: str, *sizes: int, name: str) -> str:
        """ONNX's rule: 0 keeps an axis, one -1 takes what is left."""
        return self.node("Reshape", x, self.integers(*sizes), name=f"{name}.reshape")

    def sizes(self, x: str, start: int, stop: int, *, name: str) -> str:
        """The lengths of some axes, which a runtime knows beforehand where the input's are set."""
        shape = self.node("Shape", x, name=name)
        return self.node("Slice", shape, self.integers(start), self.integers(stop), name=name)

    def rename(self, x: str, name: str) -> None:
        """Gives the last node's output another name, the graph's own."""
        assert self.nodes[-1].output[0] == x
        self.nodes[-1].output[0] = name

    def _constant(self, value: np.ndarray, name: str) -> str:
        name = self._free(name)
        self.constants.append(onnx().numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _free(self, name: str) -> str:
        count = self._taken[name] = self._taken.get(name, -1) + 1
        return f"{name}.{count}" if count else name


def value(name: str, dtype: str, shape: Sequence[int | str]) -> Any:
    """An input or output of the graph; a word as a size leaves it open."""
    kind = getattr(onnx().TensorProto, dtype.upper())
    return onnx().helper.make_tensor_value_info(name, kind, list(shape))


def onnx() -> ModuleType:
    """The package.

    Raises:
        ImportError: it isn't installed.
    """
    try:
        import onnx as package
    except ImportError as error:
        raise ImportError(
            f"writing ONNX needs the package onnx ({error}): pip install 'segformer-jax[onnx]'"
        ) from error
    return package
