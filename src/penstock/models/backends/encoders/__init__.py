"""Encoders: embedding models and cross-encoders, with complete texts in padded batches."""

from penstock.models.backends.encoders.loading import LoadedEncoder, load

__all__ = ["LoadedEncoder", "load"]
