"""The protocol of an evaluation: as for `segment`."""

from segformer_jax.inference.protocol import Protocol

__all__ = ["Protocol"]
