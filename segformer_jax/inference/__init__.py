"""Inference: `Segmenter`, from pictures to class maps.

It may import `checkpoints`, `models`, `ops`, `images` and `bilinear`.
"""
