"""Imports public names on first use, so that `segformer-jax --help` runs without JAX."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Any


def on_demand(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns a package's `__getattr__` and `__dir__`, for its public names and its modules.

    Args:
        package: the package's `__name__`.
        homes: the module that each public name is imported from, by name.
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
