"""`convert-data`: writes a data set of any format that is read as folders, or as COCO."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from segformer_jax.cli.printing import say


def convert_data(
    data: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    format: Literal["folder", "coco"] = "folder",
    reduce_zero_label: bool = False,
    mask_suffix: str = "",
    resize_masks: bool = False,
) -> int:
    """Write a data set as folders of pictures and masks of class indices, or as COCO.

    Args:
        data: the data folder, in any format that train reads.
        out: the folder to be.
        format: what is written: SPLIT/images and SPLIT/masks, or COCO's JSON files.
        reduce_zero_label: ignore label 0 and lower the others by one (ADE20K).
        mask_suffix: what a mask's name has after its picture's, such as _mask.
        resize_masks: give masks of another size their picture's, by the nearest pixel, if the
            ratios of the sides agree.
    """
    from segformer_jax.data.convert import write_coco, write_folders
    from segformer_jax.data.formats import open_splits

    parts = open_splits(
        data,
        reduce_zero_label=reduce_zero_label,
        mask_suffix=mask_suffix,
        resize_masks=resize_masks,
    )
    for part, dataset in parts.items():
        say(f"{data}, {part}: {len(dataset):,} pairs, {dataset.recognised}")
    if format == "folder":
        write_folders(parts, out)
    else:
        lost = write_coco(parts, out)
        if lost:
            say(f"warning: {lost:,} ignored pixels are background in COCO, which has no such word")
    print(out)
    return 0
