"""Imports the optional package onnx."""

from types import ModuleType


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
