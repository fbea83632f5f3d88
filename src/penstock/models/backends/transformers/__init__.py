"""Transformers' own modules over our attention and KV cache."""
