"""One line of what `penstock doctor` reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mark = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and what to do where something lacks."""

    subject: str
    mark: Mark
    found: str
    advice: str = ""
