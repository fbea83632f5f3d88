"""GGUF's blocks as codes with what they mean, and a file's tensors by the names of modules."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from penstock.models.catalogue.gguf import configuration, names
from penstock.models.weights.published.integers import Integers, NotReadable

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.models.catalogue.gguf.header import Entry, Header

_HALF_BYTE: Final = 1 << 7
_IQ4: Final = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_PLAIN: Final = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class GgufTensors:
    """The tensors of a file by the names that Transformers' modules have for them."""

    def __init__(self, header: Header) -> None:
        """:raises NotReadable: a tensor's name is unknown."""
        self._family = configuration.family_of(header)
        self._config = configuration.configuration(header)
        experts = int(self._config.get("num_experts") or 0)
        self._data = np.memmap(header.path, np.uint8, "c")  # because torch expects writable memory
        self._entries: dict[str, tuple[Entry, int | None]] = {}
        for own, entry in header.tensors.items():
            try:
                found = names.named(own, experts)
            except KeyError as error:
                raise NotReadable(f"a tensor {own!r}, which is unknown here") from error
            for number, name in enumerate(found):
                self._entries[name] = (entry, number if len(entry.shape) > 2 else None)  # noqa: PLR2004  of experts

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._entries)

    @property
    def matrices(self) -> set[str]:
        """Names of those that are codes."""
        return {name for name, (entry, _) in self._entries.items() if entry.kind not in _PLAIN}

    @property
    def rest(self) -> set[str]:
        """Names of those that are values."""
        return self.names - self.matrices

    def read(self, name: str) -> Integers | torch.Tensor:
        """A tensor: codes with what they mean, or values.

        :raises NotReadable: its type is not read.
        """
        entry, number = self._entries[name]
        data = torch.as_tensor(self._data[entry.start : entry.start + entry.size])
        shape = entry.shape
        if number is not None:
            data, shape = data.view(shape[0], -1)[number], shape[1:]
        found = _read(entry.kind, data, shape)
        if self._family.turned and ".self_attn." in name:
            return self._halves(name, found)
        if self._family.added and "norm." in name and isinstance(found, torch.Tensor):
            return found.float() - self._family.added
        return found

    def _halves(self, name: str, found: Integers | torch.Tensor) -> Integers | torch.Tensor:
        """Rows of queries and keys from pairs of neighbours to halves, as modules turn them."""
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        key = heads.get(name.split(".")[-2])
        if key is None:
            return found
        rows = found.shape[0]
        order = torch.arange(rows).view(self._config[key], -1, 2).transpose(1, 2).reshape(-1)
        return found.taken(order) if isinstance(found, Integers) else found[order]


def _read(kind: str, data: torch.Tensor, shape: tuple[int, ...]) -> Integers | torch.Tensor:
    if kind in _PLAIN:
        return data.clone().view(_PLAIN[kind]).view(shape)
    reader = _READERS.get(kind)
    if reader is None:
        return _by_library(kind, data).view(shape)
    rows = int(np.prod(shape[:-1]))
    blocks = data.view(-1, _BLOCK_BYTES[kind])
    codes, bits, scales, zero, offsets = reader(blocks)
    levels = _LEVELS.get(kind)
    groups = scales.numel() // rows
    zeros = None if zero is None else torch.full((rows, groups), zero, dtype=torch.int16)
    return Integers(
        codes.reshape(rows, -1).contiguous(),
        bits,
        shape[-1] // groups,
        scales.reshape(rows, groups).contiguous(),
        zeros,
        None if offsets is None else offsets.reshape(rows, groups).contiguous(),
        levels=None
        if levels is None
        else levels(blocks).view(rows, -1, levels(blocks[:1]).numel()),
    )


def _by_library(kind: str, data: torch.Tensor) -> torch.Tensor:
    """The values of a type that few files have, by ggml's own package.

    :raises NotReadable: it is not installed.
    """
    try:
        library: Any = importlib.import_module("gguf")
    except ImportError as error:
        raise NotReadable(f"GGUF's {kind} needs the package gguf (pip install gguf)") from error
    values = library.quants.dequantize(data.numpy(), library.GGMLQuantizationType[kind])
    return torch.as_tensor(values)


Codes = tuple[torch.Tensor, int, torch.Tensor, int | None, torch.Tensor | None]
"""(blocks, weights) codes, their bits, scales by group, one zero for all or offsets by group."""


def _half(blocks: torch.Tensor, at: int) -> torch.Tensor:
    """(blocks, 1) float32 of the half-precision number at a byte of each block."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(data: torch.Tensor) -> torch.Tensor:
    """Low halves of all bytes, then the high ones."""
    return torch.cat((data & 15, data >> 4), dim=-1)


def _fifth(blocks: torch.Tensor, at: int) -> torch.Tensor:
    """32 single bits, as the fifth of codes."""
    bits = (blocks[:, at : at + 4, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.flatten(1) << 4


def _q4_0(blocks: torch.Tensor) -> Codes:
    return _nibbles(blocks[:, 2:]), 4, _half(blocks, 0), 8, None


def _q4_1(blocks: torch.Tensor) -> Codes:
    return _nibbles(blocks[:, 4:]), 4, _half(blocks, 0), None, _half(blocks, 2)


def _q5_0(blocks: torch.Tensor) -> Codes:
    return _nibbles(blocks[:, 6:]) | _fifth(blocks, 2), 5, _half(blocks, 0), 16, None


def _q5_1(blocks: torch.Tensor) -> Codes:
    codes = _nibbles(blocks[:, 8:]) | _fifth(blocks, 4)
    return codes, 5, _half(blocks, 0), None, _half(blocks, 2)


def _q8_0(blocks: torch.Tensor) -> Codes:
    return blocks[:, 2:] ^ _HALF_BYTE, 8, _half(blocks, 0), _HALF_BYTE, None


def _six_bits(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers of a superblock's eight groups, of scales and of offsets."""
    low, middle, high = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat((low & 63, (high & 15) | ((low >> 6) << 4)), dim=1)
    least = torch.cat((middle & 63, (high >> 4) | ((middle >> 6) << 4)), dim=1)
    return scales, least


def _k_scales(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and offsets of a superblock's eight groups."""
    scales, least = _six_bits(blocks)
    return _half(blocks, 0) * scales, -(_half(blocks, 2) * least)


def _k_levels(blocks: torch.Tensor) -> torch.Tensor:
    """See `Integers.levels`."""
    return torch.cat((blocks[:, :4], *_six_bits(blocks)), dim=1)


def _q6_levels(blocks: torch.Tensor) -> torch.Tensor:
    return torch.cat((blocks[:, 208:210], blocks[:, 192:208]), dim=1)


def _quarters(data: torch.Tensor) -> torch.Tensor:
    """128 bytes in four parts, each one's low halves before its high ones."""
    return _nibbles(data.reshape(-1, 4, 32)).flatten(1)


def _q4_k(blocks: torch.Tensor) -> Codes:
    scales, offsets = _k_scales(blocks)
    return _quarters(blocks[:, 16:]), 4, scales, None, offsets


def _q5_k(blocks: torch.Tensor) -> Codes:
    scales, offsets = _k_scales(blocks)
    bits = (blocks[:, None, 16:48] >> torch.arange(8, dtype=torch.uint8)[:, None]) & 1
    return _quarters(blocks[:, 48:]) | (bits.flatten(1) << 4), 5, scales, None, offsets


def _q6_k(blocks: torch.Tensor) -> Codes:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64))
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8)[:, None]
    high = ((blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3).flatten(2)
    scales = _half(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8)
    return (low | (high << 4)).flatten(1), 6, scales, 32, None


def _levels(nibbles: torch.Tensor) -> torch.Tensor:
    """IQ4's levels as bytes with half of their range added."""
    table = torch.tensor(_IQ4, dtype=torch.int16) + _HALF_BYTE
    return table.to(torch.uint8)[nibbles.long()]


def _iq4_nl(blocks: torch.Tensor) -> Codes:
    return _levels(_nibbles(blocks[:, 2:])), 8, _half(blocks, 0), _HALF_BYTE, None


def _iq4_xs(blocks: torch.Tensor) -> Codes:
    high = blocks[:, 2:4].contiguous().view(torch.int16).to(torch.int32) & 0xFFFF
    high = (high >> torch.arange(0, 16, 2, dtype=torch.int32)) & 3
    low = torch.stack((blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4), dim=-1).flatten(1)
    scales = _half(blocks, 0) * ((low.to(torch.int32) | (high << 4)) - 32)
    codes = _nibbles(blocks[:, 8:].reshape(-1, 8, 16)).flatten(1)
    return _levels(codes), 8, scales, _HALF_BYTE, None


_READERS: Final[dict[str, Callable[[torch.Tensor], Codes]]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}
_LEVELS: Final[dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "Q4_K": _k_levels,
    "Q5_K": _k_levels,
    "Q6_K": _q6_levels,
}
_BLOCK_BYTES: Final = {
    "Q4_0": 18,
    "Q4_1": 20,
    "Q5_0": 22,
    "Q5_1": 24,
    "Q8_0": 34,
    "Q4_K": 144,
    "Q5_K": 176,
    "Q6_K": 210,
    "IQ4_NL": 18,
    "IQ4_XS": 136,
}
