"""The two tiers: what `pytest` runs, and what only `pytest -m ''` does."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def short(cases: Iterable[Any], keep: Callable[[Any], bool]) -> list[Any]:
    """Cases for `parametrize`: those to keep run always, the others in the full tier alone."""
    cases = list(cases)
    assert any(map(keep, cases)), "no case is left in the short tier"
    return [case if keep(case) else _full(case) for case in cases]


def _full(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.full)
