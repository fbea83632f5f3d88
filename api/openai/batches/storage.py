"""Chooses the storage of files and batches: a folder, or a bucket."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.openai.batches.objects import FolderObjects

if TYPE_CHECKING:
    from api.openai.batches.objects import Objects
    from penstock.settings import Settings


def objects_of(settings: Settings) -> Objects:
    """Return the process's storage.

    :raises BadSettings: PENSTOCK_FILES_URL cannot be used here.
    """
    if not settings.files_url:
        return FolderObjects(settings.files_dir)
    endpoint = str(settings.files_endpoint) if settings.files_endpoint else None
    return _bucket(settings.files_url, endpoint)


@cache
def _bucket(url: str, endpoint: str | None) -> Objects:
    from api.openai.batches.bucket import Bucket  # noqa: PLC0415 - an extra's library

    return Bucket.at(url, endpoint)
