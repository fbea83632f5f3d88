"""Penstock's own small chat model, shipped as data: see README.md beside this file."""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The folder to load with Transformers or bigdl-llm."""
    return Path(__file__).parent
