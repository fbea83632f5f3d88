"""Our packages `api` and `workers`, whatever else of that name Python would find first.

Celery and uvicorn look into the current folder before all else, so that a folder `api` or `workers`
of another project would be started in the place of ours. What is loaded here stands in `sys.modules`
under its name, where they find it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import penstock
from penstock.errors import StartupError

if TYPE_CHECKING:
    from types import ModuleType

Edge = Literal["api", "workers"]
OF_OURS: Final[dict[Edge, str]] = {
    "api": "application.py",
    "workers": "delivery/application.py",
}
"""A file that our package has, by the package's name."""


def folder_of(name: Edge) -> Path:
    """Return where our package is.

    :raises StartupError: something else is in its place.
    """
    installed = Path(penstock.__file__).resolve().parents[1]
    # Beside the package in an installation, beside `src` in a checkout.
    for folder in (installed, installed.parent):
        if (folder / name / OF_OURS[name]).is_file():
            return folder / name
    raise StartupError(
        f"{installed / name} is not Penstock's package {name!r}: another distribution has put its "
        "own there, so give Penstock an environment of its own"
    )


def load(name: Edge) -> ModuleType:
    """Import our package by its name.

    :raises StartupError: it is not there, or another one was imported already.
    """
    folder = folder_of(name)
    loaded = sys.modules.get(name)
    if loaded is not None:
        if Path(loaded.__file__ or "").resolve().parent != folder:
            raise StartupError(f"another package {name!r} is loaded already: {loaded.__file__}")
        return loaded
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - it is a file
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def foreign(name: Edge) -> Path | None:
    """Return the package or module of this name in the current folder, if it is not ours."""
    candidates = (Path.cwd() / name, Path.cwd() / f"{name}.py")
    for candidate in candidates:
        if candidate.exists() and candidate.resolve() != folder_of(name):
            return candidate
    return None


def api_app() -> Any:
    """Return our API's application: `uvicorn --factory penstock.cli.edges:api_app`."""
    return load("api").app
