"""The distillation loss: a student learns from a teacher's logits besides the masks.

It is (1 − w)·loss + w·T²·KL(teacher ‖ student), where the logits of both are divided by the
temperature T (Hinton, Vinyals and Dean, *Distilling the knowledge in a neural network*, 2015). The
factor T² keeps the size of the gradients.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from segformer_jax import ops

SOFT = "soft"  # the name of the teacher if its logits come from files

Targets = tuple[Float[Array, "b h w shared"], Bool[Array, "b h w"]]


@dataclass(frozen=True)
class Distillation:
    """How a training step learns from a teacher.

    Attributes:
        weight: w, in (0, 1].
        temperature: T, above 0.
        classes: the student's indices of the classes that both know, in the order of the targets.
        targets: a function of a part of the batch and of `values`, which returns the teacher's
            logits and the cells where they count.
        values: the teacher's parameters; empty if its logits come from files.
    """

    weight: float
    temperature: float
    classes: tuple[int, ...]
    targets: Callable[[Mapping[str, Array], Mapping[str, Array]], Targets]
    values: Mapping[str, Any] = field(default_factory=dict)

    def loss(
        self, hard: Float[Array, ""], logits: Float[Array, "b h w labels"], targets: Targets
    ) -> Float[Array, ""]:
        """Returns the weighted sum of the loss against the masks and that against the teacher."""
        soft = divergence(logits, *targets, classes=self.classes, temperature=self.temperature)
        return (1 - self.weight) * hard + self.weight * self.temperature**2 * soft


def divergence(
    logits: Float[Array, "b h w labels"],
    teacher: Float[Array, "b h2 w2 shared"],
    taught: Bool[Array, "b h2 w2"],
    *,
    classes: Sequence[int],
    temperature: float,
) -> Float[Array, ""]:
    """Returns the mean of KL(teacher ‖ student) over all taught cells, or 0 if there are none.

    Both distributions are softmaxes over the shared classes only. The probability of the other
    classes is thus distributed among the shared ones in proportion. A single class is compared with
    everything else, which gets the logit 0.

    Args:
        logits: the student's.
        teacher: the teacher's logits, resized bilinearly if they differ from the student's in size.
        taught: the cells that count.
        classes: for each of the teacher's classes, its index among the student's.
        temperature: the logits of both are divided by this.
    """
    dtype = ops.at_least_float32(logits.dtype)
    own, teacher = logits.astype(dtype), teacher.astype(dtype)
    if teacher.shape[1:3] != own.shape[1:3]:
        size = own.shape[1:3]
        teacher = ops.resize_bilinear(teacher, size=size)
        share = ops.resize_bilinear(taught[..., None].astype(dtype), size=size)[..., 0]
        taught = share > 0.999  # all cells that were interpolated are taught
    if tuple(classes) != tuple(range(own.shape[-1])):
        own = own[..., np.asarray(classes)]
    if len(classes) == 1:
        own, teacher = (jnp.pad(x, ((0, 0), (0, 0), (0, 0), (1, 0))) for x in (own, teacher))
    log_p = jax.nn.log_softmax(teacher / temperature)
    log_q = jax.nn.log_softmax(own / temperature)
    losses = (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
    return jnp.where(taught, losses, 0).sum() / jnp.maximum(taught.sum(), 1).astype(dtype)


def shared_classes(
    id2label: Mapping[int, str], taught: Sequence[str]
) -> tuple[tuple[int, ...], tuple[str, ...], list[str]]:
    """Returns the classes that student and teacher both know, by name; case doesn't matter.

    Args:
        id2label: the student's classes.
        taught: the names of the teacher's classes.

    Returns:
        The student's indices, the teacher's names in the same order, and messages about the classes
        that only one of the two knows.

    Raises:
        ValueError: they share fewer than two classes, unless both have the same single class.
    """
    known = {_folded(name): name for name in taught}
    shared = [(index, known[_folded(name)]) for index, name in sorted(id2label.items())
              if _folded(name) in known]  # fmt: skip
    names = tuple(name for _, name in shared)
    alone = len(id2label) == len(taught) == len(shared) == 1
    if len(shared) < 2 and not alone:
        raise ValueError(
            "the teacher must share two or more class names with the data, got "
            f"{names[0] if names else 'none'} in common (teacher: "
            f"{', '.join(taught)}; data: {', '.join(id2label.values())}): take "
            "another teacher"
        )
    indices = tuple(index for index, _ in shared)
    lacking = [name for index, name in sorted(id2label.items()) if index not in indices]
    dropped = [name for name in taught if name not in names]
    lines = []
    if lacking:
        lines.append(f"the teacher does not know {', '.join(lacking)}: learned from masks alone")
    if dropped:
        lines.append(f"of the teacher's classes not to be learned: {', '.join(dropped)}")
    return indices, names, lines


def _folded(name: str) -> str:
    return name.strip().casefold()
