"""SegFormer for JAX and Flax NNX (Xie et al. 2021, arXiv 2105.15203)."""

__version__ = "0.1.0"
