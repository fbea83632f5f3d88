"""The aliases file: public names that stand for other models, with weights and fallbacks.

```toml
[aliases.assistant]
models = { "vicuna-7b" = 9, "vicuna-7b-v2" = 1 }   # nine requests in ten go to the first
fallback = ["tiny"]                                # if none of them can serve

[aliases."gpt-4o"]
models = "vicuna-7b"
```

A name means the same at every API process that reads the same file. The right-hand sides may be
names of models, names of queues, and aliases of models.toml, but not other aliases.
"""

from __future__ import annotations

import logging
import time
import tomllib
from random import Random
from typing import TYPE_CHECKING, Final

import msgspec

from penstock.errors import BadSettings
from penstock.foreign import read_text

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger("penstock.api")

LOOK_EVERY_S: Final = 1.0


class Alias(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The models that a name stands for."""

    models: str | dict[str, float]
    fallback: tuple[str, ...] = ()

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each model."""
        return {self.models: 1.0} if isinstance(self.models, str) else self.models

    @property
    def heaviest_first(self) -> tuple[str, ...]:
        """Every model by descending weight, then the fallbacks."""
        weights = self.weights
        return (*sorted(weights, key=lambda name: -weights[name]), *self.fallback)

    def order(self, seed: str | None) -> tuple[str, ...]:
        """Return the models in the order in which to try them, drawn by their weights.

        The same seed gives the same order. Models of weight 0 come after the others.
        """
        random = Random(seed)  # noqa: S311  which user gets which version is no secret
        # Efraimidis and Spirakis (2006): the order of these keys is a draw without replacement.
        keys = {
            name: random.random() ** (1.0 / weight) if weight > 0 else -1.0
            for name, weight in self.weights.items()
        }
        return tuple(sorted(keys, key=lambda name: -keys[name]))


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    aliases: dict[str, Alias] = {}


def read(path: Path) -> dict[str, Alias]:
    """Return the file's aliases; empty if it does not exist.

    :raises BadSettings: the file is not usable; the message names the file and the problem.
    """
    try:
        aliases = msgspec.convert(tomllib.loads(read_text(path)), _File).aliases
    except FileNotFoundError:
        return {}
    except RecursionError as error:
        raise BadSettings(f"{path}: nested too deeply") from error
    except (OSError, ValueError) as error:
        raise BadSettings(f"{path}: {error}") from error
    for name, alias in aliases.items():
        _check(path, name, alias, aliases)
    return aliases


def _check(path: Path, name: str, alias: Alias, aliases: dict[str, Alias]) -> None:
    where = f"{path} [aliases.{name}]"
    if not any(weight > 0 for weight in alias.weights.values()):
        raise BadSettings(f"{where}: models: at least one needs a weight above 0")
    if any(weight < 0 for weight in alias.weights.values()):
        raise BadSettings(f"{where}: models: a weight is below 0")
    nested = next((name_ for name_ in (*alias.weights, *alias.fallback) if name_ in aliases), None)
    if nested is not None and nested != name:
        raise BadSettings(f"{where}: {nested!r} is an alias itself")


class Aliases:
    """The file's aliases, read again when it changes. Owned by one event loop."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        :raises BadSettings: see `read`.
        """
        self._path = path
        self._looked_s = time.monotonic()
        self._stamp = self._changed()
        self._aliases = read(path)

    def get(self, name: str) -> Alias | None:
        """Return the alias of this name, or None if there is none."""
        self._look()
        return self._aliases.get(name)

    def names(self) -> tuple[str, ...]:
        """The names of all aliases."""
        self._look()
        return tuple(self._aliases)

    def _look(self) -> None:
        """Read the file again if it has changed; an unusable file changes nothing."""
        if time.monotonic() - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = time.monotonic()
        stamp = self._changed()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._aliases = read(self._path)
        except BadSettings as error:
            logger.warning("the aliases remain unchanged: the file is not usable: %s", error)
        else:
            logger.info("%s: %d aliases", self._path, len(self._aliases))

    def _changed(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0)
        return (status.st_mtime_ns, status.st_size)
