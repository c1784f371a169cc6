"""Training: a run of steps from its settings to a model and its card.

It may import `evaluation`, `data`, `inference`, `checkpoints`, `models`, `ops` and `images`.
"""
