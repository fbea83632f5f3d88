"""The adapters that a worker has in memory: the most recently used ones, loaded on demand."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from penstock.contract.adapter import AdapterCard
from penstock.engine.sequence import Adapter
from penstock.errors import InvalidParameter, ModelNotLoadable, UnknownModel
from penstock.models.adapters import adapter as adapters
from penstock.models.adapters import folder as folders

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from penstock.models.adapters.adapter import AdapterModel, LowRank
    from penstock.models.adapters.folder import Bounds


_MOST_EVICTED: Final = 1024


@dataclass(frozen=True, slots=True)
class AdapterRules:
    """Which adapters a worker loads: how large, how many at once, from which folders.

    `named` are those of the models file, by name; others must lie below `allowed`.
    """

    bounds: Bounds
    most: int
    allowed: Path
    named: Mapping[str, Path]


def named_cards(rules: AdapterRules) -> tuple[AdapterCard, ...]:
    """Return the cards of the adapters that the models file names.

    :raises ModelNotLoadable: one of them cannot be used.
    """
    return tuple(_card(name, path, rules.bounds) for name, path in sorted(rules.named.items()))


def _card(name: str, path: Path, bounds: Bounds) -> AdapterCard:
    read = folders.read(path, bounds)
    return AdapterCard(
        name=name,
        digest=read.digest,
        path=str(path),
        rank=read.rank,
        created_s=int((path / folders.WEIGHTS).stat().st_mtime),
    )


class LoadedAdapters:
    """One model's adapters. Any thread; loading one does not delay those that are loaded."""

    def __init__(self, model: AdapterModel, rules: AdapterRules) -> None:
        """Check the adapters that the models file names; none is loaded yet.

        :raises ModelNotLoadable: one of them cannot be used.
        """
        self._model = model
        self._rules = rules
        self._loaded: OrderedDict[str, tuple[str, Adapter]] = OrderedDict()  # by digest
        self._evicted: deque[str] = deque(maxlen=_MOST_EVICTED)
        self._changing = threading.Lock()
        self._loading = threading.Lock()
        self.named = named_cards(rules)

    @property
    def most(self) -> int:
        """How many are in memory at once, beside those that running answers still use."""
        return self._rules.most

    def names(self) -> tuple[str, ...]:
        """Return the names of those in memory, the last used one first."""
        with self._changing:
            return tuple(name for name, _ in reversed(self._loaded.values()))

    def digests(self) -> tuple[str, ...]:
        """Return what identifies those in memory."""
        with self._changing:
            return tuple(self._loaded)

    def lost_heads(self) -> list[str]:
        """Return the digests of those that have left memory since the last call, as heads of jobs."""
        with self._changing:
            gone = [digest for digest in self._evicted if digest not in self._loaded]
            self._evicted.clear()
            return gone

    def has(self, card: AdapterCard) -> bool:
        """Return whether an adapter is in memory."""
        return card.digest in self._loaded

    def get(self, card: AdapterCard) -> Adapter:
        """Return an adapter, loaded now if it is not in memory; the least recently used one goes.

        :raises UnknownModel: this worker does not have it, or has another one in its place.
        """
        found = self._found(card.digest)
        if found is not None:
            return found
        with self._loading:
            found = self._found(card.digest)
            return found if found is not None else self._load(card)

    def read(self, name: str, path: str) -> AdapterCard:
        """Load an adapter of a folder below the allowed one, and return its card.

        :raises InvalidParameter: it cannot be used here; the message has the reason.
        """
        try:
            card = _card(name, self._allowed(path), self._rules.bounds)
            self.get(card)
        except (ModelNotLoadable, UnknownModel) as error:
            raise InvalidParameter(f"lora_path: {error.message}", param="lora_path") from error
        return card

    def _found(self, digest: str) -> Adapter | None:
        with self._changing:
            entry = self._loaded.get(digest)
            if entry is None:
                return None
            self._loaded.move_to_end(digest)
            return entry[1]

    def _load(self, card: AdapterCard) -> Adapter:
        path = self._rules.named.get(card.name)
        try:
            low_rank = self._read(path or self._allowed(card.path), card.digest)
            own = Adapter(bytes.fromhex(low_rank.digest), self._model.take_adapter(low_rank))
        except (ModelNotLoadable, InvalidParameter) as error:
            raise UnknownModel(f"the adapter {card.name!r}: {error.message}") from error
        with self._changing:
            self._loaded[card.digest] = (card.name, own)
            while len(self._loaded) > self._rules.most:
                self._evicted.append(self._loaded.popitem(last=False)[0])
        return own

    def _read(self, path: Path, digest: str) -> LowRank:
        """:raises ModelNotLoadable: it cannot be used, or has other contents than when it was named."""
        low_rank = adapters.load(path, self._rules.bounds)
        if low_rank.digest != digest:
            raise ModelNotLoadable(f"{path}: it has changed since it was loaded: load it again")
        return low_rank

    def _allowed(self, stated: str) -> Path:
        """Return a folder below the allowed one; a relative path starts there.

        :raises InvalidParameter: it lies elsewhere, or there is none.
        """
        allowed = self._rules.allowed
        try:
            root = allowed.resolve()
            path = (root / stated).resolve()
            inside = path.is_relative_to(root) and path.is_dir()
        except (OSError, ValueError, RuntimeError):  # a loop of links, a null character
            inside, path = False, allowed
        if not inside:
            raise InvalidParameter(
                f"lora_path: {stated!r:.200}: no folder below {allowed} (PENSTOCK_ADAPTERS_DIR)",
                param="lora_path",
            )
        return path
