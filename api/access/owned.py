"""Stored objects belong to the tenant that made them."""

from __future__ import annotations

from typing import Protocol, TypeVar

from penstock.errors import UnknownObject


class _HasTenant(Protocol):
    @property
    def tenant(self) -> str: ...


Stored = TypeVar("Stored", bound=_HasTenant)


def owned(stored: Stored | None, tenant: str, *, kind: str, object_id: str) -> Stored:
    """Return a stored object if the tenant owns it; `kind` is `file`, `batch` or `response`.

    :raises UnknownObject: unknown, or owned by another tenant; deliberately indistinguishable.
    """
    if stored is None or stored.tenant != tenant:
        raise UnknownObject(f"There is no {kind} {object_id[:80]!r}", param=f"{kind}_id")
    return stored
