"""Files of `torch.save`, zip and legacy; half of the damage of a zip is in its pickle alone."""

import io
import os
import zipfile
from collections import OrderedDict
from pathlib import Path
from random import Random

from segformer_jax.checkpoints.files import read_weights
from segformer_jax.errors import WeightsError
from tests.fuzz.damage import damaged
from tests.fuzz.kinds import Reader, Sample

NAME = "pytorch_model.bin"


class _Call:
    """A pickle of it calls `os.system`, where pickles may."""

    def __reduce__(self):
        return os.system, ("true",)


def _samples() -> list[Sample]:
    import torch  # here, because the process that reads does without

    base = torch.arange(24.0).reshape(4, 6)
    tensors = OrderedDict(
        {
            str(kind): base.to(kind)
            for kind in (torch.float32, torch.bfloat16, torch.int64, torch.bool)
        }
    )
    tensors |= {"transposed": base.T, "expanded": base[:1].expand(3, 6), "empty": base[:0]}
    loop = {"state_dict": tensors, "epoch": 3, "optimizer": [{"lr": 0.1}], "hook": _Call()}
    samples = []
    for content in (tensors, loop):
        for new in (True, False):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=new)
            samples.append(Sample({NAME: file.getvalue()}, NAME))
    return samples


def _damage(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    if not content.startswith(b"PK") or rng.random() < 0.3:
        return damaged(rng, content, others)
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(written, "w") as anew:
        for name in archive.namelist():
            own = archive.read(name)
            chosen = name.endswith("data.pkl") or rng.random() < 0.05
            anew.writestr(name, damaged(rng, own, others) if chosen else own)
    return written.getvalue()


def _read(folder: Path) -> None:
    read_weights(folder / NAME)


TORCH_FILES = Reader("torch", _samples, _damage, _read, (WeightsError,))
