"""AdamW with rules over parameter names for learning rates, weight decay and freezing.

Parameters are one flat dict with dotted names such as `segformer.stages.0.blocks.1.mlp.fc1.kernel`.
All patterns are shell patterns for whole names, as in `fnmatch`: `*` matches any text, dots too.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from segformer_jax.checkpoints.flat import Flat


@dataclass(frozen=True)
class Rule:
    """Factors of learning rate and weight decay for the parameters that match a pattern."""

    pattern: str
    rate: float = 1.0
    decay: float = 1.0


def paper_rules(head_factor: float = 10.0) -> tuple[Rule, ...]:
    """Returns the rules of the paper's training runs; the first that matches a name applies.

    The head's learning rate is ten times as high by default. Norms have no weight decay, but biases
    do. The paper's code tries the rule "head" before "norm", so the head's own norm decays as well.
    """
    return (
        Rule("decode_head.*", rate=head_factor),
        Rule("classifier.*", rate=head_factor),  # the head of image classification
        Rule("*norm*", decay=0.0),
    )


def make_optimizer(
    params: Iterable[str],
    *,
    learning_rate: optax.Schedule,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    clip_norm: float | None = None,
    head_factor: float = 10.0,
    layer_decay: float = 1.0,
    rules: Sequence[Rule] | None = None,
) -> optax.GradientTransformation:
    """Returns `torch.optim.AdamW` with a parameter group per rule, after `clip_grad_norm_`.

    Args:
        params: names of the trained parameters.
        learning_rate: a function of the number of updates made; the rules multiply it.
        weight_decay: decoupled weight decay, multiplied by the learning rate, as in torch.
        betas: decays of the averages of the gradients and of their squares.
        eps: added to the root of the averaged squares.
        clip_norm: largest norm of all gradients together; None does not clip.
        head_factor: learning rate of the head ÷ that of the encoder, in the paper's rules.
        layer_decay: factor of the learning rate for every block below the head (see
            `layer_factors`).
        rules: used instead of the paper's.

    Raises:
        ValueError: a number is out of range.
    """
    _check(weight_decay, betas, eps, clip_norm)
    factors = group_factors(
        params,
        rules=paper_rules(head_factor) if rules is None else rules,
        layer_decay=layer_decay,
    )

    return optax.chain(
        optax.identity() if clip_norm is None else optax.stateless(_clip(clip_norm)),
        optax.scale_by_adam(*betas, eps),
        optax.stateless(_by_group(factors, weight_decay)),
        optax.scale_by_learning_rate(learning_rate),
    )


def group_factors(
    names: Iterable[str], *, rules: Sequence[Rule], layer_decay: float = 1.0
) -> dict[str, Rule]:
    """Returns each name's factors: its first matching rule (else 1), times its layer's factor."""
    layers = layer_factors(names, layer_decay)
    factors = {}
    for name, layer in layers.items():
        rule = next((rule for rule in rules if fnmatchcase(name, rule.pattern)), Rule("*"))
        factors[name] = Rule(rule.pattern, rule.rate * layer, rule.decay)
    return factors


def layer_factors(names: Iterable[str], layer_decay: float) -> dict[str, float]:
    """Returns each name's learning rate factor, layer_decay^depth, as for BEiT (Bao et al. 2022).

    The head has depth 0, the last block among the names 1, and each block before it one more. A
    stage's last norm has the depth of its last block, its patch embeddings that of the block before
    them; the patch embeddings of the first stage are one deeper than the first block.

    Raises:
        ValueError: the factor is not in (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be a factor in (0, 1], got {layer_decay}")
    names = list(names)
    blocks = {place for place in map(_place, names) if place and 0 <= place[1] < float("inf")}

    def depth(place) -> int:
        return 0 if place is None else 1 + sum(place < block for block in blocks)

    return {name: layer_decay ** depth(_place(name)) for name in names}


def _place(name):
    """Returns stage and block (−1: patch embeddings, infinity: last norm); None for the head."""
    match = re.search(r"\bstages\.(\d+)\.(?:blocks\.(\d+)|(patch_embeddings))?", name)
    if match is None:
        return None
    stage, block, embeddings = match.groups()
    return int(stage), int(block) if block else -1 if embeddings else float("inf")


def frozen(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """Returns the names that match any pattern, such as `segformer.*`: parameters not to train.

    Raises:
        ValueError: a pattern matches nothing.
    """
    names, chosen = sorted(names), set()
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            some = ", ".join(names[:: max(len(names) // 6, 1)][:6])
            raise ValueError(
                f"no parameter's name matches {pattern!r}: `*` stands for any text, and "
                f"names look like {some}"
            )
        chosen |= matched
    return chosen


def ema_update(
    ema: Mapping[str, Array], params: Mapping[str, Array], *, decay: float, step: ArrayLike
) -> Flat:
    """Returns the moving average of the parameters after update number `step`, counted from 0.

    The decay is min(decay, (1 + step) / (10 + step)), so that the first values soon lose their
    weight (as `tf.train.ExponentialMovingAverage` with `num_updates`).
    """
    step = jnp.asarray(step, float)  # int32 / int32 is float32, even in 64-bit mode
    keep = jnp.minimum(decay, (1 + step) / (10 + step))
    return {
        name: old + (1 - keep).astype(old.dtype) * (params[name] - old) for name, old in ema.items()
    }


def _clip(largest):
    """Clips as `torch.nn.utils.clip_grad_norm_`, which divides by the norm + 1e-6."""

    def clip(updates, params):
        norm = jnp.sqrt(sum(jnp.square(update).sum() for update in updates.values()))
        factor = jnp.minimum(largest / (norm + 1e-6), 1)
        return {name: update * factor for name, update in updates.items()}

    return clip


def _by_group(factors, weight_decay):
    def by_group(updates, params):
        return {
            name: (update + weight_decay * factors[name].decay * params[name]) * factors[name].rate
            for name, update in updates.items()
        }

    return by_group


def _check(weight_decay, betas, eps, clip_norm):
    if weight_decay < 0:
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be in [0, 1), got {betas}")
    if eps <= 0:
        raise ValueError(f"eps must be a small positive number, got {eps}")
    if clip_norm is not None and clip_norm <= 0:
        raise ValueError(f"clip_norm must be above 0, or None, got {clip_norm}")
