"""The protocol of an evaluation is that of `segment`."""

from segformer_jax.inference.protocol import Protocol

__all__ = ["Protocol"]
