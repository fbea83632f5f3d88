"""A LoRA adapter's matrices, and the models that take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from penstock.errors import ModelNotLoadable, first_line
from penstock.models.adapters import folder as folders

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from penstock.models.adapters.folder import AdapterFolder, Bounds


@dataclass(frozen=True, slots=True)
class Pair:
    """`scale` * `up` (`down` x) is added to a linear layer's outputs.

    `down` is (rank, inputs), `up` (outputs, rank), of float types as published.
    """

    down: torch.Tensor
    up: torch.Tensor
    scale: float


@dataclass(frozen=True, slots=True)
class LowRank:
    """An adapter in memory: its pairs, by the names of the base's modules."""

    path: Path
    digest: str
    rank: int
    pairs: dict[str, Pair]

    @property
    def nbytes(self) -> int:
        """Memory of its matrices."""
        return sum(pair.down.nbytes + pair.up.nbytes for pair in self.pairs.values())


@runtime_checkable
class AdapterModel(Protocol):
    """A model whose sequences may have adapters, each its own, in one batch."""

    def take_adapter(self, adapter: LowRank) -> Any:
        """Return an adapter in the model's own layout, for `SequenceSlice.adapter`. Any thread.

        :raises ModelNotLoadable: it changes matrices that the model does not have, or does not
            compute apart; with one line about the reason.
        """
        ...


def load(path: Path, bounds: Bounds) -> LowRank:
    """Read an adapter's folder.

    :raises ModelNotLoadable: as `penstock.models.adapters.folder.read`; or its weights are damaged.
    """
    return load_pairs(folders.read(path, bounds))


def load_pairs(folder: AdapterFolder) -> LowRank:
    """Read the matrices of a folder that was checked.

    :raises ModelNotLoadable: they are damaged, or no numbers.
    """
    safetensors: Any = __import__("safetensors")
    pairs: dict[str, Pair] = {}
    try:
        with safetensors.safe_open(folder.path / folders.WEIGHTS, "pt") as tensors:
            for name, module in folder.modules.items():
                down, up = tensors.get_tensor(module.down), tensors.get_tensor(module.up)
                pairs[name] = _pair(down, up, module.scale)
    except ValueError as error:
        raise ModelNotLoadable(f"{folder.path}: {error}") from error
    except Exception as error:  # whatever a damaged file makes the library raise
        raise ModelNotLoadable(f"{folder.path}: {first_line(error)}") from error
    return LowRank(folder.path, folder.digest, folder.rank, pairs)


def _pair(down: torch.Tensor, up: torch.Tensor, scale: float) -> Pair:
    """:raises ValueError: it holds something else than numbers."""
    if not (down.is_floating_point() and up.is_floating_point()):
        raise ValueError("its matrices are no floating-point numbers")
    if not all(bool(tensor.isfinite().all()) for tensor in (down, up)):
        raise ValueError("its matrices hold values that are not numbers")
    return Pair(down.contiguous(), up.contiguous(), scale)
