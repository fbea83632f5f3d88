"""Models in the layout of Hugging Face's cache: `models--ORG--NAME/snapshots/COMMIT`. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.foreign import read_text

if TYPE_CHECKING:
    from pathlib import Path

_PREFIX: Final = "models--"
_SEPARATOR: Final = "--"


def name_of(folder: Path) -> str | None:
    """Return the name of the model that a folder of such a cache has; None for any other folder."""
    if not folder.name.startswith(_PREFIX) or not (folder / "snapshots").is_dir():
        return None
    return folder.name.removeprefix(_PREFIX).replace(_SEPARATOR, "/", 1)


def snapshot(cache: Path, name: str) -> Path | None:
    """Return the folder of a cached model: what `main` means, else its only snapshot; or None."""
    folder = cache / (_PREFIX + name.replace("/", _SEPARATOR))
    snapshots = folder / "snapshots"
    try:
        main = snapshots / read_text(folder / "refs" / "main").strip()
        if main.parent == snapshots and main.is_dir():
            return main
    except (OSError, ValueError):  # no branch: a commit was fetched by its number
        pass
    try:
        whole = [one for one in snapshots.iterdir() if one.is_dir()]
    except OSError:
        return None
    return whole[0] if len(whole) == 1 else None
