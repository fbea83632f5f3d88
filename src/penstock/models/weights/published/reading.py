"""Which tensors of a checkpoint stand for which matrices, and the reading of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from penstock.models.catalogue.published_shapes import BLOCKS, CODES, TORCHAO, is_beside
from penstock.models.weights.published import compressed, floats, gptq, torchao
from penstock.models.weights.published.integers import NotReadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from penstock.models.catalogue.quantisation import Quantisation
    from penstock.models.weights.published.floats import Fp8Codes
    from penstock.models.weights.published.integers import Integers

_SCALES: Final = (".weight_scale_inv", ".weight_scale", ".SCB", ".weight.absmax")
_SCALE_INV: Final = "_scale_inv"
_INT8_EXTREME: Final = 127.0
"""What bitsandbytes' largest magnitude of a row is stored as."""


class Published:
    """The quantised matrices of a checkpoint, by the names of their unquantised form.

    `tensor` reads one of the checkpoint's own tensors.
    """

    def __init__(
        self,
        quantisation: Quantisation,
        names: Iterable[str],
        tensor: Callable[[str], torch.Tensor],
    ) -> None:
        self._quantisation = quantisation
        self._own = set(names)
        self._tensor = tensor
        self._matrices = {
            found: name for name in self._own if (found := self._matrix_of(name)) is not None
        }

    @property
    def matrices(self) -> set[str]:
        """Names of the matrices that codes stand for."""
        return set(self._matrices)

    @property
    def rest(self) -> set[str]:
        """Names of all other tensors but those that belong to codes."""
        codes = set(self._matrices.values())
        return {n for n in self._own - codes if not is_beside(n, self._own)}

    def _matrix_of(self, name: str) -> str | None:
        for end in CODES:
            if name.endswith(end):
                return f"{name.removesuffix(end)}.weight"
        if name.endswith(BLOCKS) and f"{name.removesuffix(BLOCKS)}_scales" in self._own:
            return name.removesuffix(BLOCKS)
        stem = name.removesuffix(".weight")
        scaled = any(stem + end in self._own for end in _SCALES)
        return name if (stem != name and scaled) or name + _SCALE_INV in self._own else None

    def read(self, name: str) -> Integers | Fp8Codes | torch.Tensor:
        """A matrix as codes, or as the float32 values that they stand for.

        :raises NotReadable: it is damaged, or in a layout that is unknown here.
        """
        own = self._matrices[name]
        try:
            if own.endswith(".qweight"):
                return self._words(own.removesuffix(".qweight"))
            if own.endswith(".weight_packed"):
                return self._packed(own.removesuffix(".weight_packed"))
            if own.endswith(TORCHAO):
                return torchao.read(
                    lambda what: self._optional(f"{own.removesuffix(TORCHAO)}._weight_{what}")
                )
            if own.endswith(BLOCKS):
                scales = self._tensor(f"{name}_scales")
                values = floats.mxfp4(self._tensor(own), scales)
                return values.transpose(-1, -2).contiguous()  # as Transformers' modules have them
            return self._scaled(own)
        except NotReadable as reason:
            raise NotReadable(f"{own}: {reason}") from reason

    def _optional(self, name: str) -> torch.Tensor | None:
        return self._tensor(name) if name in self._own else None

    def _words(self, stem: str) -> Integers | torch.Tensor:
        words, scales = self._tensor(f"{stem}.qweight"), self._tensor(f"{stem}.scales")
        zeros = self._optional(f"{stem}.qzeros")
        if self._quantisation.layout == "awq":
            return gptq.awq(words, zeros, scales)
        if zeros is None:
            raise NotReadable("codes without qzeros")
        added = self._quantisation.zero_added
        return gptq.gptq(words, zeros, scales, self._optional(f"{stem}.g_idx"), added=added)

    def _packed(self, stem: str) -> Integers | torch.Tensor:
        rows, columns = (int(size) for size in self._tensor(f"{stem}.weight_shape"))
        return compressed.packed(
            self._tensor(f"{stem}.weight_packed"),
            self._tensor(f"{stem}.weight_scale"),
            (rows, columns),
            self._optional(f"{stem}.weight_zero_point"),
            self._optional(f"{stem}.weight_g_idx"),
        )

    def _scaled(self, name: str) -> Integers | Fp8Codes | torch.Tensor:
        """Values with scales beside them: bytes of FP8 or of integers, or bitsandbytes' codes."""
        values, stem = self._tensor(name), name.removesuffix(".weight")
        if f"{name}.absmax" in self._own:
            return floats.bitsandbytes_4bit(values, lambda end: self._optional(f"{name}.{end}"))
        if f"{stem}.SCB" in self._own:
            extremes = self._tensor(f"{stem}.SCB").float()
            return compressed.bytewise(values, extremes / _INT8_EXTREME, None)
        ends = (f"{name}_scale_inv", f"{name}_scale")
        scales = self._tensor(next(end for end in ends if end in self._own))
        if values.dtype == torch.int8:
            return compressed.bytewise(values, scales, self._optional(f"{name}_zero_point"))
        if values.dtype not in floats.FP8_TYPES:
            raise NotReadable(f"values of {values.dtype} with scales")
        block = self._quantisation.block
        if values.dim() == 3:  # noqa: PLR2004 - the matrices of all experts
            pairs = zip(values, scales, strict=True)
            return torch.stack([floats.fp8(one, own, block).values() for one, own in pairs])
        return floats.fp8(values, scales, block)
