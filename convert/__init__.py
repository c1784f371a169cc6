"""Checkpoints of other layouts, and comparisons with PyTorch and with published logits."""
