"""Public names that are imported on first use: `segformer-jax --help` answers without JAX."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Any


def on_demand(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package: its public names, and the modules in it.

    Args:
        package: its `__name__`.
        homes: each public name, and the module that it is imported from.
    """
    own = sys.modules[package]

    def get(name: str) -> Any:
        if name in homes:
            value = getattr(importlib.import_module(homes[name]), name)
        elif importlib.util.find_spec(f"{package}.{name}"):
            value = importlib.import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(own, name, value)
        return value

    return get, lambda: sorted({*vars(own), *homes})
