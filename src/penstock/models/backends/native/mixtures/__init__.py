"""Mixtures of experts in the native library: their form, their packing, and by themselves."""
