"""Who sent a request, and what that caller's API key permits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from penstock.errors import NotPermitted

if TYPE_CHECKING:
    from penstock.contract.worker import ModelCard
    from penstock.transport.accounts.keyring import KeyCard

ANONYMOUS: Final = "anonymous"
"""The tenant of callers without a key."""
LOWEST_PRIORITY: Final = 9
ORDINARY_PRIORITY: Final = 5


@dataclass(frozen=True)
class Caller:
    """The sender of a request; `card` describes a stored key."""

    tenant: str = ANONYMOUS
    card: KeyCard | None = None
    is_admin: bool = True

    @property
    def key_name(self) -> str:
        """The key's name for the usage log; empty without a stored key."""
        return self.card.name if self.card else ""

    def may_use(self, *names: str) -> bool:
        """Whether this caller may use a model with one of these names."""
        allowed = self.card.models if self.card else ()
        return not allowed or any(name in allowed for name in names)

    def check_model(self, asked: str, card: ModelCard) -> None:
        """Check that the key permits a model.

        :raises NotPermitted: it does not.
        """
        if not self.may_use(asked, card.name, card.queue):
            raise NotPermitted(f"This API key may not use the model {asked!r}", param="model")

    def priority(self, asked: int | None) -> int:
        """Return a job's priority: the requested one, but never better than the key's."""
        best = self.card.priority if self.card else None
        if best is None:
            return ORDINARY_PRIORITY if asked is None else asked
        return best if asked is None else max(best, asked)
