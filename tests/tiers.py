"""Divides test cases into two tiers: those of plain `pytest`, and those of `pytest -m full`."""

from collections.abc import Sequence
from typing import Any

import pytest


def short(cases: Sequence[Any], kept: Sequence[Any]) -> list[Any]:
    """Returns cases for `parametrize`: `kept` ones always run, the others in the full tier only.

    A case that is a tuple holds the values of several parameters.
    """
    assert kept
    assert all(case in cases for case in kept), "a case that is kept must be one of them"
    return [case if case in kept else _full(case) for case in cases]


def _full(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.full)
