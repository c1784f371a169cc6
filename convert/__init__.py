"""Checkpoints of other layouts, and comparisons with PyTorch and with published logits.

Installed as `segformer_jax.convert`; the only package that may need PyTorch.
It may import `checkpoints`, `models` and `images`.
"""
