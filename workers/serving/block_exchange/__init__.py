"""Blocks of KV cache between hosts: one serves what its disk has, another asks before it computes."""
