"""From a name to checked weights, and back to files; no PyTorch, and no code from a checkpoint.

It may import `models`.
"""
