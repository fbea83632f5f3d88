"""Rounding to 4 bit by what a model computes with, in the layouts in which such models are published."""
