"""Documents of one kind that live in Redis for a while, and the list of unfinished ones.

A document is open until it is closed with its final contents. The process that opened it closes
it; if that process died, another finds it among the open ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import msgspec

from penstock.transport import keys
from penstock.transport.store import contents
from penstock.transport.store.connection import patiently_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import redis.asyncio

    from penstock.settings import Settings

Document = TypeVar("Document", bound=msgspec.Struct)

MOST_OPEN: Final = 1_000
"""Most open documents that one look returns."""


class Documents(Generic[Document]):
    """Documents of one kind. Owned by one event loop. Every method may raise `StoreUnavailable`."""

    def __init__(
        self,
        redis: redis.asyncio.Redis,
        settings: Settings,
        kind: str,
        struct: type[Document],
        ttl_s: int,
    ) -> None:
        self._redis = cast("Any", redis)
        self._patience_s = settings.redis_patience_s
        self._kind = kind
        self._ttl_s = ttl_s
        self._decoder = msgspec.json.Decoder(struct)
        self._encoder = msgspec.json.Encoder()

    async def _patiently(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return await patiently_async(call, self._patience_s)

    async def open(self, document_id: str, document: Document, now_s: float) -> Document:
        """Store a document as open; return the document that was there before, if any."""
        key, payload = keys.document(self._kind, document_id), self._encoder.encode(document)

        async def store() -> None:
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.set(key, payload, nx=True, ex=self._ttl_s)
            pipeline.zadd(keys.open_documents(self._kind), {document_id: now_s}, nx=True)
            pipeline.expire(keys.open_documents(self._kind), self._ttl_s)
            await pipeline.execute()

        await self._patiently(store)
        return await self.get(document_id) or document

    async def close(self, document_id: str, document: Document) -> None:
        """Store a document's final contents; does nothing if it was deleted meanwhile."""
        key, payload = keys.document(self._kind, document_id), self._encoder.encode(document)
        await self._patiently(lambda: self._redis.set(key, payload, xx=True, ex=self._ttl_s))
        await self.forget(document_id)

    async def forget(self, document_id: str) -> None:
        """Remove a document from the open ones."""
        await self._patiently(
            lambda: self._redis.zrem(keys.open_documents(self._kind), document_id)
        )

    async def get(self, document_id: str) -> Document | None:
        """Return a document, or None if there is none."""
        key = keys.document(self._kind, document_id)
        stored = await self._patiently(lambda: self._redis.get(key))
        return None if stored is None else contents.decode(self._decoder, stored, key)

    async def several(self, document_ids: Sequence[str]) -> list[Document | None]:
        """Return documents in the order of their ids, and extend their lives: they are in use.

        None for one that is not there any more, or cannot be read.
        """
        if not document_ids:
            return []

        async def read() -> list[bytes | None]:
            pipeline = self._redis.pipeline(transaction=False)
            for document_id in document_ids:
                pipeline.getex(keys.document(self._kind, document_id), ex=self._ttl_s)
            return await pipeline.execute()

        document_keys = [keys.document(self._kind, document_id) for document_id in document_ids]
        stored = zip(document_keys, await self._patiently(read), strict=True)
        return contents.readable(self._decoder, stored)

    async def delete(self, document_id: str) -> bool:
        """Delete a document; False if there was none."""
        gone = await self._patiently(
            lambda: self._redis.delete(keys.document(self._kind, document_id))
        )
        await self.forget(document_id)
        return bool(gone)

    async def opened_before(self, until_s: float) -> list[str]:
        """Return the ids of documents that were opened before `until_s` and are still open."""
        ids = await self._patiently(
            lambda: self._redis.zrange(
                keys.open_documents(self._kind),
                "-inf",
                until_s,
                byscore=True,
                offset=0,
                num=MOST_OPEN,
            )
        )
        return [contents.text(document_id, keys.open_documents(self._kind)) for document_id in ids]
