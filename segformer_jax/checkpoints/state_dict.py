"""Finds the model's tensors in what a training loop saved with `torch.save`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from segformer_jax.errors import WeightsError, listed

Tensor = TypeVar("Tensor")

WRAPPERS = (  # where training loops keep the model, the trained weights before their averages
    *("state_dict", "model_state_dict", "model_state", "model", "net_state_dict", "net"),
    *("network", "module", "params"),
    *("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema", "params_ema"),
)
DEPTH = 3  # of wrapping keys inside wrapping keys: a pickle may share one dict without end
LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class Inert:
    """Replaces a class or function that a pickle names; it accepts all arguments and does nothing.

    Attributes:
        made_by: the name, which was not imported.
    """

    made_by = ""

    def __new__(cls, *_arguments: Any, **_options: Any) -> "Inert":
        """Returns an inert object as the result of a call."""
        return super().__new__(cls)

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        """Ignores the arguments."""

    def _nothing(self, *_arguments: Any) -> None:
        """Ignores what a pickle adds to an object after creating it."""

    __setstate__ = __setitem__ = append = extend = add = _nothing


@dataclass(frozen=True)
class Unread:
    """A tensor whose type can't be read.

    Attributes:
        kind: its type or storage, as torch names it.
    """

    kind: str


def find_state_dict(content: Any, *, kind: type[Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the tensors of the model by name, and a line about each thing that is left out.

    Looked for under `WRAPPERS`, also inside one another, then in the content itself, then under
    the one other key that holds tensors. Of several state dicts the first in that order is taken.

    Args:
        content: what the pickle holds.
        kind: the class of tensors.

    Raises:
        WeightsError: there is no dict of tensors; an entry with the name of a parameter is made by
            something else, or of a type that is not read.
    """
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"the file must hold a dict of tensors, got {_described(content)}: save "
            "model.state_dict(); nothing was imported or called"
        )
    found = _wrapped(content, (), kind) or _beside(content, kind)
    if not found:
        entries = [f"{key} ({_described(value)})" for key, value in content.items()]
        raise WeightsError(
            "the file must hold a dict of tensors, or one under a key such as state_dict, "
            f"model_state_dict, model, net or ema, got the entries {listed(entries)}"
        )
    (key, entries), *others = found
    notes = []
    if others:
        unused = listed([other for other, _ in others])
        notes.append(f"the weights under {key} were read, and not those under {unused}")
    tensors = {str(name): value for name, value in entries.items() if isinstance(value, kind)}
    rest = {str(name): value for name, value in entries.items() if not isinstance(value, kind)}
    wanted = [name for name in rest if name.rpartition(".")[2] in LEAVES]
    if wanted:
        reasons = [f"{name} is {_described(rest[name])}" for name in wanted]
        raise WeightsError(
            "refused, and nothing imported or called: parameters must be tensors of floats or "
            f"integers, got {listed(reasons)}: if you trust the file, save its state dict with "
            "torch, as float32 or bfloat16"
        )
    if rest:
        notes.append(f"these entries are no tensors and were left out: {listed(list(rest))}")
    return tensors, notes


def _wrapped(content: Mapping, path: tuple, kind: type) -> list[tuple[str, Mapping]]:
    if len(path) < DEPTH:
        inner = [
            found
            for key in WRAPPERS
            if isinstance(content.get(key), Mapping)
            for found in _wrapped(content[key], (*path, key), kind)
        ]
        if inner:
            return inner
    return [(".".join(path), content)] if _holds_tensors(content, kind) else []


def _beside(content: Mapping, kind: type) -> list[tuple[str, Mapping]]:
    held = [
        (str(key), value)
        for key, value in content.items()
        if isinstance(value, Mapping) and _holds_tensors(value, kind)
    ]
    return held if len(held) == 1 else []


def _holds_tensors(content: Mapping, kind: type) -> bool:
    return any(isinstance(value, kind | Unread) for value in content.values())


def _described(value: Any) -> str:
    if isinstance(value, Unread):
        return f"of the type {value.kind}"
    if isinstance(value, Inert):
        return f"an object of {value.made_by}"
    if isinstance(value, type) and issubclass(value, Inert):
        return f"{value.made_by} itself"
    return f"a {type(value).__name__}"
