"""`coco.json`: the COCO files of all pictures of a command as one."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from segformer_jax.atomic import atomic_path
from segformer_jax.json_text import json_bytes

COCO = "coco.json"


def merge_coco(files: Iterable[Path], file: Path) -> None:
    """Writes one COCO data set of several of one picture each; files that are missing are left out.

    Annotations go from file to file one by one; names of pictures and categories are in memory.
    """
    images, categories, count = [], [], 0
    with atomic_path(file) as temporary, open(temporary, "wb") as out:
        out.write(b'{"annotations": [')
        for part in filter(os.path.exists, files):
            own = json.loads(part.read_bytes())
            images.append(own["images"][0] | {"id": len(images) + 1})
            categories = own["categories"]
            for annotation in own["annotations"]:
                out.write(b",\n" if count else b"\n")
                count += 1
                row = annotation | {"id": count, "image_id": len(images)}
                out.write(json_bytes(row, indent=None).strip())
        rest = json_bytes({"images": images, "categories": categories}, indent=None)
        out.write(b"\n],\n" + rest[1:])
