"""`check-data`: shows what a data set is recognised as, what it holds and what is wrong with it."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import tyro

from segformer_jax.atomic import atomic_path
from segformer_jax.cli.printing import make_console, make_table, print_json, say
from segformer_jax.training.settings import Format


def check_data(
    data: Annotated[str, tyro.conf.Positional],
    split: str | None = None,
    format: Format = "auto",
    reduce_zero_label: bool = False,
    mask_suffix: str = "",
    resize_masks: bool = False,
    sheet: Path = Path("check-data.png"),
    count: int = 16,
    json: bool = False,
) -> int:
    """Check a data set as train does: format, pairs, sizes, classes and problems; exit 1 with any.

    Args:
        data: the data folder.
        split: check this split alone; by default train and val, or all of a folder without splits.
        format: how the data is stored; auto detects it.
        reduce_zero_label: ignore label 0 and lower the others by one (ADE20K).
        mask_suffix: what a mask's name has after its picture's, such as _mask.
        resize_masks: give masks of another size their picture's, by the nearest pixel, if the
            ratios of the sides agree.
        sheet: a PNG file for pictures with their masks over them.
        count: number of pictures in it; 0 writes none.
        json: print one JSON object instead of tables.
    """
    from segformer_jax.cli.train import Bar
    from segformer_jax.data.check import findings, listed, turned_note
    from segformer_jax.data.formats import open_splits
    from segformer_jax.data.preview import overview

    parts = open_splits(
        data,
        split=split,
        format=format,
        reduce_zero_label=reduce_zero_label,
        mask_suffix=mask_suffix,
        resize_masks=resize_masks,
    )
    shown, problems, palettes = {}, [], {}
    for part, dataset in parts.items():
        found = findings(dataset, whole=True, progress=Bar().checking, palettes=palettes)
        problems += found.problems
        if found.turned:
            say(f"warning: {turned_note(found.turned)}")
        shown[part] = _described(dataset, found)
    if json:
        print_json({"data": data, "splits": shown, "problems": problems})
    else:
        _print(data, shown)
    if problems:
        say(listed(problems, of="the data set"))
    drawn = overview(list(parts.values()), count=count) if count else None
    if drawn is not None:
        with atomic_path(sheet) as temporary:
            drawn.save(temporary, format="PNG")
        if not json:
            print(sheet)
    return 1 if problems else 0


def _described(dataset: Any, found: Any) -> dict[str, Any]:
    """A split in numbers, for JSON."""
    names = list(dataset.id2label.values())
    if len(names) == 1:  # masks tell the class from all else
        names = ["all else", *names]
    survey = found.survey
    pixels = sum(survey.class_pixels) + survey.ignored_pixels
    shares = [own / max(pixels, 1) for own in survey.class_pixels]
    sizes = Counter(f"{width}×{height}" for height, width in survey.sizes)
    return {
        "recognised": dataset.recognised,
        "pairs": len(dataset),
        "sizes": dict(sizes.most_common()),
        "classes": [
            {"name": name, "share": share} for name, share in zip(names, shares, strict=True)
        ],
        "ignored": survey.ignored_pixels / max(pixels, 1),
    }


def _print(data: str, shown: dict[str, Any]) -> None:
    columns = list(shown)
    console = make_console()
    for part, about in shown.items():
        console.print(f"{data}, {part}: {about['recognised']}", highlight=False)
        sizes = [f"{size} ({often:,})" for size, often in about["sizes"].items()]
        more = f" and {len(sizes) - 5} more" if len(sizes) > 5 else ""
        console.print(f"  {about['pairs']:,} pairs, {', '.join(sizes[:5])}{more}", highlight=False)
    table = make_table("class", *columns, title="share of the pixels")
    for index, own in enumerate(shown[columns[0]]["classes"]):
        shares = (shown[part]["classes"][index]["share"] for part in columns)
        table.add_row(own["name"], *(f"{share:.2%}" for share in shares))
    table.add_section()
    table.add_row("ignored", *(f"{shown[part]['ignored']:.2%}" for part in columns))
    console.print(table)
