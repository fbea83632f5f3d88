"""LoRA adapters, as the fleet names them."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from penstock.errors import InvalidParameter

LONGEST_NAME: Final = 128
LONGEST_PATH: Final = 1024

_PART: Final = "[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME: Final = re.compile(rf"{_PART}(?:/{_PART})?")


class AdapterCard(msgspec.Struct, frozen=True, omit_defaults=True):
    """An adapter of a served model.

    `name` is what clients ask for. `digest` identifies its contents, so that a worker never computes
    with others. `path` is its folder on the workers; of one that the models file names, each
    worker has its own. `rank` is the highest of its matrices. `created_s` is Unix time.
    """

    name: str
    digest: str
    path: str
    rank: int = 0
    created_s: int = 0


class LoadedAdapter(msgspec.Struct, frozen=True):
    """An adapter that was loaded at run time, of the model named `base`."""

    base: str
    card: AdapterCard


def check_name(name: str, param: str) -> str:
    """Return a name that clients can ask for.

    :raises InvalidParameter: it is none.
    """
    if len(name) > LONGEST_NAME or _NAME.fullmatch(name) is None:
        raise InvalidParameter(
            f"{param}: {name!r:.80}: a name is made of ASCII letters, digits, '.', '_' and '-', "
            f"with one '/' at most, {LONGEST_NAME} characters in all",
            param=param,
        )
    return name
