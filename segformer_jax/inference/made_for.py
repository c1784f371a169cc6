"""What compiled programs were made for, and why they can't be used elsewhere.

XLA compiles for the very CPU or accelerator of this machine. JAX looks programs up by a hash of
everything that they depend on, the CPU's features too, so a program of another machine is never
run; it is only not found. Here the reason is found, so that it can be told.
"""

import dataclasses
import hashlib
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import jaxlib

import segformer_jax
from segformer_jax.config import SegformerConfig
from segformer_jax.inference.devices import local_devices
from segformer_jax.json_text import json_bytes

LISTED = 4  # features in a message
# sets of instructions that compilers use; the other flags of x86 are of no effect on programs
X86 = re.compile(r"(abm|adx|amx|avx|bmi|f16c|fma|gfni|movbe|popcnt|sha|s?sse|v?aes|v?pclmul)\w*")


@dataclass(frozen=True)
class MadeFor:
    """What a folder of programs was compiled for.

    Attributes:
        versions: of segformer_jax, jax, jaxlib and flax.
        platform: cpu, gpu or tpu.
        kind: JAX's name of the device, such as "NVIDIA H200"; "cpu" for all CPUs.
        devices: number of devices that a batch is split over.
        architecture: of the CPU, such as x86_64.
        features: the CPU's sets of instructions, as /proc/cpuinfo names them; none for
            accelerators, and where there is no such file.
        config: SHA-256 of the sizes and options of the network; names of classes have no effect.
        dtype: type of the matrix products.
    """

    versions: dict[str, str]
    platform: str
    kind: str
    devices: int
    architecture: str
    features: list[str]
    config: str
    dtype: str

    @classmethod
    def here(cls, config: SegformerConfig, dtype: Any, device: Any) -> "MadeFor":
        """Describes this machine and this process.

        Args:
            config: of the model.
            dtype: type of the matrix products.
            device: as in `Segmenter`.

        Raises:
            ValueError: JAX finds no such device.
        """
        devices = local_devices(device)
        on_cpu = devices[0].platform == "cpu"
        return cls(
            versions=versions(),
            platform=devices[0].platform,
            kind=devices[0].device_kind,
            devices=len(devices),
            architecture=platform.machine(),
            features=cpu_features() if on_cpu else [],
            config=digest(config),
            dtype=jnp.dtype(dtype).name,
        )

    @classmethod
    def from_dict(cls, values: Any) -> "MadeFor":
        """Reads `dataclasses.asdict`.

        Raises:
            ValueError: a value is missing or has another type.
        """
        kinds: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(cls)}
        if not isinstance(values, dict) or values.keys() != kinds.keys():
            raise ValueError(f"made_for must have the entries {', '.join(kinds)}, got {values!r}")
        for name, kind in kinds.items():
            plain = getattr(kind, "__origin__", kind)
            if not isinstance(values[name], plain):
                raise ValueError(f"{name} must be a {plain.__name__}, got {values[name]!r}")
        return cls(**values)

    def difference(self, here: "MadeFor") -> str | None:
        """Returns why programs that were made for this can't run `here`; None if nothing is known.

        A CPU with more features is no difference here, but JAX may know better: see `surplus`.
        """
        for name in sorted(here.versions.keys() | self.versions.keys()):
            made, there = self.versions.get(name), here.versions.get(name)
            if made != there:
                return f"compiled with {name} {made}, this is {name} {there}"
        pairs = (
            ("platform", "for {}, the model runs on {} here"),
            ("architecture", "on {}, this machine is {}"),
            ("kind", "for {}, the model runs on {} here"),
            ("devices", "for {} device(s), JAX has {} here"),
            ("dtype", "for {}, the model computes in {}"),
        )
        for name, words in pairs:
            made, there = getattr(self, name), getattr(here, name)
            if made != there:
                return "compiled " + words.format(made, there)
        lacking = [name for name in self.features if name not in here.features]
        if lacking and here.features:
            return f"compiled for a CPU with {_some(lacking)}, which this CPU lacks"
        if self.config != here.config:
            return "compiled for another model"
        return None

    def surplus(self, here: "MadeFor") -> str:
        """Returns why JAX has not found programs `here`, though `difference` knows no reason."""
        more = [name for name in here.features if name not in self.features]
        if more:
            return (
                f"compiled for a CPU without {_some(more)}, and JAX runs programs only on CPUs "
                "with the same features"
            )
        return "JAX does not take them here, because this CPU, XLA_FLAGS or JAX's settings differ"


def versions() -> dict[str, str]:
    """Returns the versions of the packages that programs depend on."""
    packages = {"segformer_jax": segformer_jax, "jax": jax, "jaxlib": jaxlib, "flax": flax}
    return {name: package.__version__ for name, package in packages.items()}


def cpu_features(file: str | Path = "/proc/cpuinfo") -> list[str]:
    """Returns the sets of instructions that Linux names for this CPU, sorted; empty if unknown."""
    try:
        text = Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = re.search(r"^(flags|Features)\s*:(.*)$", text, re.MULTILINE)
    if found is None:
        return []
    names = found[2].split()  # an ARM lists nothing but sets of instructions
    return sorted(n for n in names if found[1] == "Features" or X86.fullmatch(n))


def digest(config: SegformerConfig) -> str:
    """Returns the SHA-256 of what programs depend on: all but the classes' names and extra keys."""
    values = dataclasses.asdict(config)
    for name in ("id2label", "extra"):
        del values[name]
    return hashlib.sha256(json_bytes(values, sort_keys=True)).hexdigest()


def _some(names: list[str]) -> str:
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")
