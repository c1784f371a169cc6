"""Files of safetensors, floats, int8 and shards; half of the damage is in the header's JSON."""

import json
from pathlib import Path
from random import Random

import ml_dtypes
import numpy as np
from safetensors.numpy import save

from segformer_jax.checkpoints.files import is_int8, read_weights
from segformer_jax.errors import WeightsError
from tests.fuzz.damage import damaged, damaged_json
from tests.fuzz.kinds import Reader, Sample

LENGTH = 8  # bytes, of the header's length


def _samples() -> list[Sample]:
    numbers = np.arange(24).reshape(2, 3, 4)
    types = (np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.uint8, np.bool_)
    floats = save(
        {np.dtype(kind).name: numbers.astype(kind) for kind in types} | {"e": numbers[:0]}
    )
    kernel = {"a.weight": numbers[0].astype(np.int8), "a.weight_scale": np.ones(3, np.float32)}
    index = json.dumps(
        {"metadata": {}, "weight_map": {"a": "one.safetensors", "e": "two.safetensors"}}
    )
    shards = {"one.safetensors": floats, "two.safetensors": save({"e": numbers})}
    name = "model.safetensors"
    return [
        Sample({name: floats}, name),
        Sample({"model.int8.safetensors": save(kernel)}, "model.int8.safetensors"),
        Sample({f"{name}.index.json": index.encode(), **shards}, f"{name}.index.json"),
    ]


def _damage(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    if content.startswith(b"{"):  # the index
        return damaged_json(rng, content, others)
    if rng.random() < 0.5:
        return damaged(rng, content, others)
    end = LENGTH + int.from_bytes(content[:LENGTH], "little")
    header = damaged_json(rng, content[LENGTH:end], others)
    return len(header).to_bytes(LENGTH, "little") + header + content[end:]


def _read(folder: Path) -> None:
    is_int8(folder)
    read_weights(folder)


SAFETENSORS = Reader("safetensors", _samples, _damage, _read, (WeightsError,))
