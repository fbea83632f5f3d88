"""Encoders: embedding models and cross-encoders, whole texts in padded batches."""

from penstock.models.encoders.loading import LoadedEncoder, load

__all__ = ["LoadedEncoder", "load"]
