"""Segments a photo with any SegFormer and shows photo and classes side by side.

It uses the processor and the model as scripts for transformers do; only the import differs. Usage:
    python examples/clothes.py person.jpg
    python examples/clothes.py examples/street.jpg --model scene-b0 --out out/street.png
"""

import argparse
from pathlib import Path

from PIL import Image, ImageOps

from segformer_jax import SegformerForSemanticSegmentation, SegformerImageProcessor
from segformer_jax.images.draw import side_by_side
from segformer_jax.images.labels import palette_for


def main() -> None:
    parser = argparse.ArgumentParser(description="Photo and classes side by side, with a legend.")
    parser.add_argument("image", type=Path)
    parser.add_argument("--model", default="mattmdjaga/segformer_b2_clothes")
    parser.add_argument("--out", type=Path, help="save the picture here instead of showing it")
    arguments = parser.parse_args()

    processor = SegformerImageProcessor.from_pretrained(arguments.model)
    model = SegformerForSemanticSegmentation.from_pretrained(arguments.model)

    image = ImageOps.exif_transpose(Image.open(arguments.image)).convert("RGB")
    inputs = processor(images=image)
    outputs = model(**inputs)
    class_map = processor.post_process_semantic_segmentation(
        outputs, target_sizes=[image.size[::-1]]
    )[0]

    id2label = dict(model.config.id2label)
    picture = side_by_side(image, class_map, id2label, palette_for(id2label))
    if arguments.out is None:
        picture.show()
    else:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        picture.save(arguments.out)


if __name__ == "__main__":
    main()
