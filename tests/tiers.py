"""The two tiers: what `pytest` runs, and what only `pytest -m ''` does."""

from collections.abc import Sequence
from typing import Any

import pytest


def short(cases: Sequence[Any], kept: Sequence[Any]) -> list[Any]:
    """Cases for `parametrize`: the kept ones run always, the others in the full tier alone.

    A case that is a tuple holds the values of several parameters.
    """
    assert kept
    assert all(case in cases for case in kept), "a case that is kept must be one of them"
    return [case if case in kept else _full(case) for case in cases]


def _full(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.full)
