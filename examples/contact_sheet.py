"""Draws photos beside their classes, all on one sheet with one legend.

python examples/contact_sheet.py a.jpg b.jpg c.jpg --model scene-b0 --out sheet.jpg
"""

import argparse
from pathlib import Path

from PIL import Image, ImageOps

from segformer_jax import Segmenter
from segformer_jax.images.draw import legend
from segformer_jax.images.labels import palette_for

GAP = 6  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description="Photos beside their classes on one sheet.")
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--model", default="scene-b0")
    parser.add_argument("--out", type=Path, default=Path("sheet.jpg"))
    parser.add_argument("--columns", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=(280, 210), help="of each picture")
    arguments = parser.parse_args()

    results = Segmenter.from_pretrained(arguments.model)(arguments.photos)
    width, height = arguments.size
    rows = -(-len(results) // arguments.columns)
    sheet = Image.new(
        "RGB", (arguments.columns * 2 * (width + GAP), rows * (height + GAP)), "white"
    )
    for number, result in enumerate(results):
        row, column = divmod(number, arguments.columns)
        for place, picture in enumerate((result.image, result.overlay(alpha=0.6))):
            left, top = (2 * column + place) * (width + GAP), row * (height + GAP)
            sheet.paste(ImageOps.pad(picture, (width, height), color="white"), (left, top))

    labels = results[0].id2label
    present = sorted({index for result in results for index in result.counts()})
    colours = palette_for(labels)
    key = legend([(labels[index], colours[index]) for index in present], height=sheet.height)
    whole = Image.new("RGB", (sheet.width + key.width, max(sheet.height, key.height)), "white")
    whole.paste(sheet, (0, 0))
    whole.paste(key, (sheet.width, 0))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    whole.save(arguments.out, quality=80)


if __name__ == "__main__":
    main()
