"""Checkpoints of other layouts, and comparisons with PyTorch and with published logits.

Installed as `segformer_jax.convert`, and the one room that may need PyTorch.
It may import `checkpoints`, `models` and `images`.
"""
