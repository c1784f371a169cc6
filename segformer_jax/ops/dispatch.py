"""Selects the implementation of each operation for a platform.

An operation has a reference implementation in plain jnp, which defines its result, and others that
are fast on one platform each. Code that compiles for one platform selects these with `use`.
Otherwise the implementation is selected when a program is lowered, so that one trace serves every
device, and an exported program every platform.
"""

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial, update_wrapper
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

PLATFORMS = ("cpu", "gpu", "tpu")
REFERENCE = "reference"

Jvp = Callable[..., tuple[Any, Any]]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Form:
    """An implementation of an operation; its functions take the options by keyword.

    Attributes:
        call: computes the value from the operands. It need not be differentiable, so it may be a
            hand-written kernel.
        tangent: maps `(primals, tangents, **options)` to the tangent, linearly in the tangents; JAX
            transposes it for the gradient. By default the tangent of the reference.
        jvp: maps `(primals, tangents, **options)` to value and tangent together. Use it instead of
            `tangent` if they share work: see `derivative_of`.
    """

    call: Callable
    tangent: Callable | None = None
    jvp: Jvp | None = None

    def __post_init__(self) -> None:
        if self.tangent is not None and self.jvp is not None:
            raise ValueError("tangent and jvp must not both be given: jvp gives the tangent too")


class Choice(NamedTuple):
    """The arguments of `use`, which are part of the cache key of `jax.jit`."""

    platform: str
    local_batch: bool
    fused_blocks: bool
    forms: tuple[tuple["Operation", Form], ...]


_choice = jax.make_user_context(None)


def use(
    platform: str,
    *,
    local_batch: bool = False,
    fused_blocks: bool = False,
    forms: Mapping[Any, Form] | None = None,
) -> AbstractContextManager:
    """A context in which functions are traced with the implementations of one platform.

    Enter it inside the function that is traced: it is thread-local, and belongs to the traced
    function, not to its caller. A function that was jitted before is traced again inside it. A
    `use` inside `use("reference")` has no effect.

    Args:
        platform: "cpu", "gpu" or "tpu"; "reference" selects the reference of every operation.
        local_batch: set it if the whole batch is on one device, as inside `shard_map`. The batch
            may then be computed picture by picture, which uses a CPU's cache better. (A batch that
            JAX splits over devices would be gathered on each of them.)
        fused_blocks: compute each half of a block by one operation, `attention_block` or
            `mix_ffn`, and on a GPU the decoder, by kernels that need `local_batch`. Not measured.
            A `use` inside this one fuses too.
        forms: implementations of some operations, used instead of the platform's.

    Raises:
        ValueError: the platform is unknown.
    """
    if platform not in (*PLATFORMS, REFERENCE):
        raise ValueError(
            f"platform must be one of {', '.join((*PLATFORMS, REFERENCE))}, got {platform!r}"
        )
    outer: Choice | None = _choice.value
    if outer is not None:
        forms = {**dict(outer.forms), **(forms or {})}
        platform = REFERENCE if outer.platform == REFERENCE else platform
        fused_blocks = fused_blocks or outer.fused_blocks
    return _choice(Choice(platform, local_batch, fused_blocks, tuple((forms or {}).items())))


def forms_for(device: str) -> str:
    """Returns the platform whose forms run on JAX's platform `device`; "gpu" for unknown ones."""
    return device if device in PLATFORMS else "gpu"


def chosen_platform() -> str | None:
    """Returns the platform that `use` selects; None outside of `use`."""
    choice = _choice.value
    return None if choice is None else choice.platform


def batch_is_local(batch: Any) -> bool:
    """Whether a form may loop over a batch: it has one picture, or `use` has `local_batch` set."""
    choice = _choice.value
    return (choice is not None and choice.local_batch) or (is_known(batch) and batch == 1)


def on_one_device() -> bool:
    """Whether a form may call a kernel for one device: the batch is local, no axis is XLA's."""
    choice, mesh = _choice.value, jax.sharding.get_abstract_mesh()
    manual = set(mesh.manual_axes) == set(mesh.axis_names)
    return manual and choice is not None and choice.local_batch


def fuses_blocks() -> bool:
    """Whether `use` has `fused_blocks` set."""
    choice = _choice.value
    return choice is not None and choice.fused_blocks


def derivative_of(function: Callable) -> Jvp:
    """Returns JAX's own derivative of a function, for `Form.jvp`."""

    def jvp(primals, tangents, **options):
        return jax.jvp(partial(function, **options), primals, tangents)

    return jvp


class Operation(Generic[P, R]):
    """A jitted function that computes in the form that `use` selects: see `operation`."""

    def __init__(
        self, reference: Callable[P, R], forms: Mapping[str, Form | None], replicated: bool
    ):
        update_wrapper(self, reference)
        self.reference, self.forms, self.replicated = reference, dict(forms), replicated
        parameters = inspect.signature(reference).parameters.values()
        options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        self._jitted = jax.jit(self._traced, static_argnames=options)

    def __call__(self, *operands: P.args, **options: P.kwargs) -> R:
        """Applies the operation to arrays; options are static."""
        mesh = _explicit_mesh(operands)
        if mesh is None:
            return self._jitted(*operands, **options)
        leading = jax.typeof(jax.tree.leaves(operands)[0]).sharding.spec[:1]
        out = PartitionSpec() if self.replicated else PartitionSpec(*leading)
        run: Callable[..., Any] = jax.sharding.auto_axes(
            partial(self._jitted, **options),
            axes=mesh.explicit_axes,
            out_sharding=NamedSharding(mesh, out),
        )
        if mesh.manual_axes:  # in a shard_map, JAX can't return intermediate values
            run = jax.checkpoint(run)
        return run(*operands)

    def _traced(self, *operands, **options):
        choice = _choice.value
        cpu, gpu, tpu = (self._function(self.forms[name], options) for name in PLATFORMS)
        if choice is None:
            others = dict(cpu=cpu, tpu=tpu)
            differ = {n: f for n, f in others.items() if self.forms[n] is not self.forms["gpu"]}
            if not differ:
                return gpu(*operands)
            return lax.platform_dependent(*operands, default=gpu, **differ)
        if choice.platform == REFERENCE:
            return self.reference(*operands, **options)
        for operation, form in choice.forms:
            if operation is self:
                return self._function(form, options)(*operands)
        return dict(cpu=cpu, gpu=gpu, tpu=tpu)[choice.platform](*operands)

    def _function(self, form: Form | None, options: Mapping[str, Any]) -> Callable:
        """Returns a form with its own derivative, which is traced with the current `use`."""
        if form is None:
            return partial(self.reference, **options)
        choice, of_reference = _choice.value, derivative_of(self.reference)
        value = jax.custom_jvp(partial(form.call, **options))

        @value.defjvp
        def rule(primals, tangents):
            with _choice(choice):
                if form.jvp is not None:
                    return form.jvp(primals, tangents, **options)
                if form.tangent is not None:
                    return value(*primals), form.tangent(primals, tangents, **options)
                return value(*primals), of_reference(primals, tangents, **options)[1]

        return value


def operation(
    reference: Callable[P, R],
    *,
    cpu: Form | None = None,
    gpu: Form | None = None,
    tpu: Form | None = None,
    replicated: bool = False,
) -> Operation[P, R]:
    """Makes a function of arrays with a form per platform; jitted, so equal layers are traced once.

    Args:
        reference: defines the result, in plain, differentiable jnp. Arrays are positional, and
            keyword-only parameters are static options.
        cpu: the form for CPUs; None uses the reference.
        gpu: the form for GPUs and all platforms other than the three; None uses the reference.
        tpu: the form for TPUs; None uses the reference.
        replicated: on a mesh with Explicit axes, every device holds the whole result, as of a loss.
            Otherwise the result is split along its first axis as the first operand is. XLA decides
            how intermediate values are split.
    """
    return Operation(reference, dict(cpu=cpu, gpu=gpu, tpu=tpu), replicated)


def _explicit_mesh(operands: Any) -> AbstractMesh | None:
    """Returns the mesh of the context or the operands if it has Explicit axes, otherwise None.

    On Explicit axes an array's type includes its sharding. Forms are written for one device, and
    few of their steps state the sharding of their result.
    """
    meshes = [jax.sharding.get_abstract_mesh()]
    meshes += [jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(operands)]
    return next((mesh for mesh in meshes if mesh.explicit_axes), None)


def is_known(*sizes: Any) -> bool:
    """Whether all sizes are integers; in an export they can be symbols, known when it runs."""
    return all(isinstance(size, int) for size in sizes)


def at_least_float32(dtype: DTypeLike) -> np.dtype:
    """Returns the type for reductions: 16-bit types become float32, float64 stays."""
    return np.promote_types(jnp.dtype(dtype), np.float32)


def activation_dtype(dtype: DTypeLike) -> np.dtype:
    """Returns the type of the values between the matmuls when these compute in `dtype`.

    With `use("cpu")` it is float32 or wider: a CPU multiplies bfloat16 fastest with float32
    results, and computes everything else faster in float32.
    """
    return at_least_float32(dtype) if chosen_platform() == "cpu" else jnp.dtype(dtype)
