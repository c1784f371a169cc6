"""A model in use: `Segmenter`, pictures in and class maps out.

It may import `checkpoints`, `models`, `ops`, `images` and `bilinear`.
"""
