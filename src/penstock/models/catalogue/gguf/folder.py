"""The GGUF file of a model's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.models.catalogue.gguf import configuration
from penstock.models.catalogue.gguf.header import BadGguf, Header, read

if TYPE_CHECKING:
    from pathlib import Path


def files(path: Path) -> list[Path]:
    """GGUF files of a folder whose weights are in no other ones."""
    try:
        found = sorted(path.glob("*.gguf"))
    except OSError:
        return []
    return [] if not found or any(path.glob("*.safetensors")) else found


def header(path: Path) -> Header | None:
    """The header of a folder's only GGUF file; None if there is none, or there are several.

    :raises BadGguf: it is damaged.
    """
    found = files(path)
    if len(found) != 1:
        return None
    try:
        return read(found[0])
    except OSError as error:
        raise BadGguf(f"{found[0]}: {error.strerror}") from error


def config_of(path: Path) -> dict[str, Any]:
    """What config.json would hold; empty if there is no such file, or it cannot be read."""
    try:
        own = header(path)
        return {} if own is None else configuration.configuration(own)
    except (BadGguf, configuration.UnknownFamily):
        return {}


def fault_of(path: Path) -> str | None:
    """Why a folder's GGUF files cannot be served, in a line; None: they can, or there are none."""
    found = files(path)
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:3])
        return f"{len(found)} GGUF files ({names}): a folder holds one, whole"
    try:
        own = header(path)
        if own is not None:
            configuration.configuration(own)
    except (BadGguf, configuration.UnknownFamily) as reason:
        return str(reason)
    return None
