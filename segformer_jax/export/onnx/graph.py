"""Builds an ONNX graph node by node."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from segformer_jax.export.onnx.grids import EightBits, Measured, rounded_kernel


class Graph:
    """The nodes of an ONNX graph in the order in which they run, and the constants they read.

    A value has the name of its node, so that a viewer shows which layer it belongs to.

    Args:
        opset: version of ONNX's standard operators.
        eight_bits: how values and kernels become 8 bits; None keeps everything in float32.

    Attributes:
        to_measure: the values that become 8 bits and have no grid yet.
    """

    def __init__(self, opset: int, *, eight_bits: EightBits | None = None) -> None:
        self.opset = opset
        self.eight_bits = eight_bits
        self.to_measure: dict[str, Measured] = {}
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._taken: dict[str, int] = {}

    def node(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Appends an operator and returns its output's name; "" omits an optional input."""
        name = self._free(name)
        make = onnx().helper.make_node
        self.nodes.append(make(operator, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, value: Any, *, name: str) -> str:
        """Adds a float32 constant and returns its name."""
        return self._constant(np.asarray(value, np.float32), name)

    def integers(self, *values: int, name: str = "sizes") -> str:
        """Adds a one-dimensional int64 constant and returns its name."""
        return self._constant(np.array(values, np.int64), name)

    def rounded(self, x: str, *, name: str = "", then: str | None = None) -> str:
        """Rounds a value to 8 bits, if the file has 8 bits and this value is to have them.

        Runtimes compute a layer in 8 bits if its input and its kernel come from
        `DequantizeLinear`, and a convolution only if its output goes to `QuantizeLinear` as well.

        Args:
            x: the value.
            name: says which value this is; by default its own name.
            then: the activation that follows, whose result is to change least.
        """
        name = name or x
        if self.eight_bits is None or not self.eight_bits.takes(name):
            return x
        grid = self.eight_bits.grids.get(name)
        if grid is None:
            self.to_measure[name] = Measured(x, then)
            return x
        scale = self.weight(grid.scale, name=f"{name}.scale")
        zero = self._constant(np.asarray(grid.zero, grid.dtype), f"{name}.zero")
        y = self.node("QuantizeLinear", x, scale, zero, name=f"{name}.in_8_bits")
        return self.node("DequantizeLinear", y, scale, zero, name=f"{name}.rounded")

    def linear(self, x: str, layer: Any, *, factor: float = 1, name: str) -> str:
        """Adds a `Linear` over the last axis, times a factor."""
        kernel, bias = (
            np.asarray(own[...]) * np.float32(factor) for own in (layer.kernel, layer.bias)
        )
        if self._in_8_bits(name):
            weight = self._rounded_kernel(kernel, (0, 1), name=f"{name}.weight")
            bias = bias[None, None]  # else ONNX Runtime joins product and sum to a float `Gemm`
        else:
            weight = self.weight(kernel, name=f"{name}.weight")
        y = self.node("MatMul", x, weight, name=name)
        return self.node("Add", y, self.weight(bias, name=f"{name}.bias"), name=f"{name}.add")

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
        """Adds a convolution of (b, c, h, w) by a kernel (size, size, inputs, outputs)."""
        kernel, axes = np.asarray(kernel, np.float32), (3, 2, 0, 1)
        if self._in_8_bits(name):
            inputs = [self._rounded_kernel(kernel, axes, name=f"{name}.weight")]
        else:
            inputs = [self.weight(kernel.transpose(axes), name=f"{name}.weight")]
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
        """Adds a `LayerNorm` over the last axis."""
        scale = self.weight(layer.scale[...], name=f"{name}.weight")
        bias = self.weight(layer.bias[...], name=f"{name}.bias")
        return self.node("LayerNormalization", x, scale, bias, name=name, axis=-1, epsilon=epsilon)

    def transpose(self, x: str, *axes: int, name: str) -> str:
        """Adds a transposition to the given order of axes."""
        return self.node("Transpose", x, name=f"{name}.transpose", perm=axes)

    def reshape(self, x: str, *sizes: int, name: str) -> str:
        """Adds a reshape by ONNX's rule: 0 keeps the length of an axis, and one -1 is inferred."""
        return self.node("Reshape", x, self.integers(*sizes), name=f"{name}.reshape")

    def sizes(self, x: str, start: int, stop: int, *, name: str) -> str:
        """Adds the lengths of axes start…stop - 1, which are constant if the input's are fixed."""
        shape = self.node("Shape", x, name=name)
        return self.node("Slice", shape, self.integers(start), self.integers(stop), name=name)

    def rename(self, x: str, name: str) -> None:
        """Renames `x`, the output of the last node, to the name of the graph's output."""
        assert self.nodes[-1].output[0] == x
        self.nodes[-1].output[0] = name

    def _in_8_bits(self, layer: str) -> bool:
        return self.eight_bits is not None and self.eight_bits.takes(layer)

    def _rounded_kernel(self, kernel: np.ndarray, axes: tuple[int, ...], *, name: str) -> str:
        """Adds an int8 kernel (…, inputs, outputs), transposed, and its conversion to floats."""
        whole, scale = rounded_kernel(kernel)
        return self.node(
            "DequantizeLinear",
            self._constant(whole.transpose(axes), name),
            self.weight(scale, name=f"{name}.scale"),
            name=f"{name}.rounded",
            axis=axes.index(len(axes) - 1),
        )

    def _constant(self, value: np.ndarray, name: str) -> str:
        name = self._free(name)
        self.constants.append(onnx().numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def _free(self, name: str) -> str:
        count = self._taken[name] = self._taken.get(name, -1) + 1
        return f"{name}.{count}" if count else name


def value(name: str, dtype: str, shape: Sequence[int | str]) -> Any:
    """Returns an input or output of the graph; a size that is a string is left open."""
    kind = getattr(onnx().TensorProto, dtype.upper())
    return onnx().helper.make_tensor_value_info(name, kind, list(shape))


def onnx() -> ModuleType:
    """Imports the package onnx.

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
