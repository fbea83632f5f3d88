"""Constants of FastChat's protocol."""

from __future__ import annotations

from typing import Final

STREAM_PATH: Final = "/worker_generate_stream"
END: Final = b"\0"
"""Ends each object of a stream."""
