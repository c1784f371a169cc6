"""Counts the pixels of a split's pictures that have the same class when it is computed faster.

`python -m benchmarks.agreement --data FOLDER/val` compares `Segmenter` with the usual three steps
(processor, model, post-processing) in float32: for single pictures, for batches, and for single
pictures in bfloat16. Run it on the processor that the figures are for.
"""

import argparse
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.machine import describe
from segformer_jax import SegformerForSemanticSegmentation, SegformerImageProcessor, Segmenter
from segformer_jax.data.formats import open_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description="Pixels that keep their class.")
    parser.add_argument("--data", required=True, help="the folder of one split")
    parser.add_argument("--model", default="scene-b0")
    parser.add_argument("--pictures", type=int, default=0, help="the first so many; 0 is all")
    given = parser.parse_args()

    data = open_dataset(given.data)
    pictures = [data.image(index) for index in range(given.pictures or len(data))]
    segment = Segmenter.from_pretrained(given.model)
    halves = Segmenter.from_pretrained(given.model, dtype=jnp.bfloat16)
    steps = three_steps(given.model)
    other: Counter[str] = Counter()
    for picture, batched in zip(pictures, segment(pictures), strict=True):
        wanted = steps(picture)
        for name, found in {
            "Segmenter, one picture": segment(picture),
            "Segmenter, batches": batched,
            "Segmenter in bfloat16": halves(picture),
        }.items():
            other[name] += int(np.sum(found.class_map != wanted))
        other["pixels"] += wanted.size
    print(f"{describe()['processor']}; {len(pictures)} pictures, {other['pixels']:,} pixels")
    for name in [name for name in other if name != "pixels"]:
        share = 1 - other[name] / other["pixels"]
        print(f"{name}: {other[name]:,} pixels of another class, {share:.4%} keep theirs")


def three_steps(name: str):
    """Returns a function from a picture to its class map, as users of transformers write it."""
    processor = SegformerImageProcessor.from_pretrained(name)
    graph, state = nnx.split(SegformerForSemanticSegmentation.from_pretrained(name))
    run = jax.jit(lambda state, pixels: nnx.merge(graph, state)(pixels))

    def class_map(picture):
        outputs = run(state, processor(picture)["pixel_values"])
        sizes = [picture.size[::-1]]
        return processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)[0]

    return class_map


if __name__ == "__main__":
    main()
