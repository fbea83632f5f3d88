"""What a backend returns to the loader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from penstock.models.weights.matrices import Kept

if TYPE_CHECKING:
    from penstock.engine.model import Model

Progress: TypeAlias = Callable[[float, str], None]
"""Called with a share from 0 to 1 and a description of the current step."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """A backend's model before it has a KV cache. `weights_bytes` is the memory in use for weights.

    `running` is how it is run (see `penstock.contract.worker.ModelCard`), `kept` what became of the
    codes of a checkpoint that was published quantised.
    """

    model: Model
    backend: str
    format: str
    architecture: str
    parameters: int
    weights_bytes: int
    running: str
    batching: Literal["continuous", "grouped"] = "continuous"
    kept: Kept = field(default_factory=Kept)
