"""A checkpoint's tensors by name, whatever it was published as."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from penstock.errors import ModelNotLoadable, first_line
from penstock.models.catalogue import quantisation
from penstock.models.catalogue.gguf import folder as gguf_folder
from penstock.models.catalogue.text_part import plain_names
from penstock.models.weights import exact, files, matrices, q4_0
from penstock.models.weights.loss import Loss
from penstock.models.weights.matrices import Kept, Matrix, wrong_shape
from penstock.models.weights.published.floats import Fp8Codes
from penstock.models.weights.published.gguf import GgufTensors
from penstock.models.weights.published.integers import Integers, NotReadable
from penstock.models.weights.published.reading import Published

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from penstock.models.weights.matrices import Format, Packed


class Checkpoint:
    """The tensors of a folder by name, mapped from its files and read when asked for.

    A matrix that was published quantised has the name that it would have if it were not
    (`....weight`), and is read as the float32 values that its codes stand for.
    """

    def __init__(self, path: Path) -> None:
        """:raises ModelNotLoadable: a file is damaged, or there is none, or its layout is unknown."""
        self.path = path
        self.loss = Loss()
        self._open = ExitStack()
        self._tensors: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}
        safetensors: Any = __import__("safetensors")
        for file in files.weight_files(path):
            try:
                handle = self._open.enter_context(safetensors.safe_open(file, "pt"))
                self._tensors.update(dict.fromkeys(handle.keys(), handle))
            except Exception as error:
                raise ModelNotLoadable(f"{file}: {first_line(error)}") from error
        if not self._tensors:
            self._read_pickles(files.pickles(path))
        self._published = self._of_gguf(path)
        if not self._tensors and self._published is None:
            raise ModelNotLoadable(f"{path}: there are no weights (*.safetensors)")
        self._stored = plain_names(self._tensors)
        self._tensors |= {name: self._tensors[own] for name, own in self._stored.items()}
        try:
            self.quantisation = quantisation.of_folder(path)
        except quantisation.UnknownQuantisation as reason:
            raise ModelNotLoadable(f"{path}: {reason}") from reason
        if self.quantisation and self._published is None:
            self._published = Published(self.quantisation, self._tensors, self._own)
        self.matrices = self._published.matrices if self._published else set[str]()

    def _of_gguf(self, path: Path) -> GgufTensors | Published | None:
        try:
            header = None if self._tensors else gguf_folder.header(path)
            return None if header is None else GgufTensors(header)
        except ValueError as reason:
            raise ModelNotLoadable(f"{path}: {reason}") from reason

    def _read_pickles(self, found: Iterable[Path]) -> None:
        """What older bigdl-llm's `save_low_bit` wrote, or was asked for. Only tensors are unpickled."""
        for file in found:
            try:
                self._tensors.update(torch.load(file, mmap=True, weights_only=True))
            except Exception as error:
                raise ModelNotLoadable(f"{file}: {first_line(error)}") from error

    @property
    def parameters(self) -> int:
        """How many weights were asked for so far, shared ones once."""
        return sum(self._sizes.values())

    @property
    def kept(self) -> Kept:
        """See `Weights.kept`."""
        if self.quantisation is None:
            return Kept()
        return Kept(self.quantisation.label, tuple(sorted(self.loss.forms)), self.loss.relative)

    def names(self) -> set[str]:
        """The names of all tensors, in their unquantised form."""
        if self._published is None:
            return set(self._tensors)
        return self.matrices | self._published.rest

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds a tensor of this name."""
        return name in self._tensors or self._is_published(name)

    def _own(self, name: str) -> torch.Tensor:
        found = self._tensors.get(name)
        if found is None:
            raise ModelNotLoadable(f"{self.path}: the checkpoint lacks {name}")
        if isinstance(found, torch.Tensor):
            return found
        return found.get_tensor(self._stored.get(name, name))

    def stored(self, name: str) -> Integers | Fp8Codes | torch.Tensor:
        """A tensor as it was published: codes with what they mean, or values.

        :raises ModelNotLoadable: there is no such tensor, or it cannot be read.
        """
        if self._published is None or not self._is_published(name):
            return self._own(name)
        try:
            return self._published.read(name)
        except NotReadable as reason:
            raise ModelNotLoadable(f"{self.path}: {reason}") from reason

    def _is_published(self, name: str) -> bool:
        plain = isinstance(self._published, GgufTensors) and name in self._published.rest
        return plain or name in self.matrices

    def tensor(self, name: str) -> torch.Tensor:
        """Its values. :raises ModelNotLoadable: there is no such tensor, or it cannot be read."""
        found = self.stored(name)
        return found if isinstance(found, torch.Tensor) else found.values()

    def vector(self, name: str) -> NDArray[np.float32]:
        """A norm's weight or a bias."""
        weight = self.tensor(name)
        self._sizes[name] = weight.numel()
        values: NDArray[np.float32] = weight.float().numpy()
        self._require_numbers(name, values)
        return values

    def embeddings(self, name: str) -> Matrix:
        """An embedding table, in the checkpoint's own type: only a few rows are read a step."""
        table = self.tensor(name)
        self._sizes[name] = table.numel()
        if name in self.matrices:  # values of codes: in 16 bit, as they would have been published
            self.loss.add_error(table, table.half())
            table = table.half()
        return matrices.plain(table)

    def matrix(self, name: str, shape: tuple[int, int], form: Format) -> Matrix:
        """A linear layer's weight in `form`, or in bigdl-llm's blocks if it is stored in them.

        :raises ModelNotLoadable: its shape is not `shape`, or its blocks are not sym_int4's.
        """
        return self.held(name, self.stored(name), shape, form)

    def together(
        self, shapes: dict[str, tuple[int, int]], form: Format, *, tail: bool = False
    ) -> dict[str, Matrix]:
        """Linear layers' weights by name that one input feeds: published codes all in one format.

        With `tail` the last ones may have another one, if the kernels compute both.

        :raises ModelNotLoadable: as `matrix`.
        """
        found = {name: self.stored(name) for name in shapes}
        codes = [weight for weight in found.values() if isinstance(weight, Integers)]
        fits = form == "stored" and len(codes) == len(found)
        made = exact.together(codes, tail=tail) if fits else None
        if made is None:
            other = "int8" if form == "stored" else form
            return {n: self.held(n, found[n], shape, other) for n, shape in shapes.items()}
        kept = dict(zip(shapes, made, strict=True))
        for name, weight in zip(shapes, codes, strict=True):
            self._note_exact(name, weight, kept[name], shapes[name])
        return kept

    def _note_exact(
        self, name: str, weight: Integers, made: Matrix, shape: tuple[int, int]
    ) -> None:
        if weight.shape != shape:
            raise wrong_shape(self.path, name, weight.shape, shape)
        self._sizes[name] = shape[0] * shape[1]
        self.loss.add_exact(weight.values())
        assert made.scales is not None  # noqa: S101 - of codes all have them
        if weight.levels is None:
            self._require_numbers(name, made.scales)
        else:
            self._require_numbers(name, weight.scales.numpy())

    def held(
        self,
        name: str,
        weight: torch.Tensor | Integers | Fp8Codes,
        shape: tuple[int, int],
        form: Format,
    ) -> Matrix:
        """As `matrix`, of a weight that was read already, or is a part of a tensor."""
        rows, columns = shape
        if isinstance(weight, Fp8Codes):
            weight = weight.values()
        if isinstance(weight, torch.Tensor) and weight.dtype == torch.uint8:
            return self._from_blocks(name, weight, rows, columns)
        if tuple(weight.shape) != shape:
            raise wrong_shape(self.path, name, tuple(weight.shape), shape)
        whole = (
            exact.together([weight]) if form == "stored" and isinstance(weight, Integers) else None
        )
        if whole is not None and isinstance(weight, Integers):
            self._note_exact(name, weight, whole[0], shape)
            return whole[0]
        self._sizes[name] = rows * columns
        values = weight.values() if isinstance(weight, Integers) else weight
        made = matrices.in_form(values, "int8" if form == "stored" else form)
        if self.quantisation is not None:
            self.loss.add(values, made)
        if made.scales is not None:
            self._require_numbers(name, made.scales)
        return made

    def packed(self, key: str, make: Callable[[Checkpoint], Packed]) -> Packed:
        """What `make` makes of it. `key` names that for a file of converted weights."""
        del key
        return make(self)

    def _require_numbers(self, name: str, values: NDArray[Any]) -> None:
        """:raises ModelNotLoadable: the checkpoint is damaged, or too large for its format."""
        if not np.isfinite(values).all():
            raise ModelNotLoadable(
                f"{self.path}: the weight {name} holds NaN or infinity: the checkpoint is damaged"
            )

    def _from_blocks(self, name: str, blocks: torch.Tensor, rows: int, columns: int) -> Matrix:
        expected = rows * columns // q4_0.BLOCK * q4_0.BLOCK_BYTES
        if blocks.numel() != expected or columns % q4_0.BLOCK:
            raise ModelNotLoadable(
                f"{self.path}: {name} holds {blocks.numel()} bytes, sym_int4 blocks of "
                f"({rows}, {columns}) are {expected}; of low-bit folders only sym_int4 is read here"
            )
        self._sizes[name] = rows * columns
        values, scales = q4_0.unpack(blocks.reshape(-1).numpy(), rows, columns)
        return Matrix("i4", rows, columns, values, scales)
