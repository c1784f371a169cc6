"""The lists of classes of all tools, id2label.json and palette.json."""

import json
from pathlib import Path
from random import Random

from segformer_jax.data.classes import coding_of, own_classes
from tests.fuzz.damage import damaged_json, damaged_text
from tests.fuzz.kinds import Reader, Sample

LISTS = {
    "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\ndog:::\n",
    "_classes.csv": "Pixel Value, Class\n0, background\n1, cat\n7, dog\n",
    "class_dict.csv": "name,r,g,b\nbackground,0,0,0\ncat,128,0,0\n",
    "class_names.txt": "__ignore__\n_background_\ncat\ndog\n",
    "classes.txt": "cat\ndog\n",
}
ID2LABEL = json.dumps({"0": "background", "1": "cat", "2": "dog"})
PALETTE = json.dumps({"background": [0, 0, 0], "1": [[1, 2, 3], [9, 9, 9]], "ignore": [255, 0, 0]})


def _samples() -> list[Sample]:
    lists = [Sample({name: text.encode()}, name) for name, text in LISTS.items()]
    both = {"id2label.json": ID2LABEL.encode(), "palette.json": PALETTE.encode()}
    return lists + [Sample(both, name) for name in both]


def _damage(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    damage = damaged_json if content.startswith(b"{") else damaged_text
    return damage(rng, content, others)


def _read(folder: Path) -> None:
    classes = own_classes(folder)
    if classes is not None:
        coding_of(classes, reduce_zero_label=False)
        str(classes)


CLASS_FILES = Reader("classes", _samples, _damage, _read, (ValueError,))
