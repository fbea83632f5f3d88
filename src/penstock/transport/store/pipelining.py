"""Commands of several callers in one round trip."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from penstock.transport.store.wrong_types import is_wrong_type, named_async

if TYPE_CHECKING:
    import redis.asyncio


class SharedPipeline:
    """Sends the commands that arrive during a round trip together, in the next pipeline.

    For an API process a round trip costs more than its commands, and concurrent requests can share
    one. Owned by one event loop; commands keep their order.
    """

    def __init__(self, redis: redis.asyncio.Redis) -> None:
        self._redis = cast("Any", redis)
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def run(self, *command: Any) -> Any:
        """Return a command's answer.

        :raises RedisError, OSError, RuntimeError: as the client would; the command may have run.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answer))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send(), name="penstock-together")
        return await answer

    async def _send(self) -> None:
        batch: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                answers = await self._ask([command for command, _ in batch])
                for (command, waiter), answer in zip(batch, answers, strict=True):
                    if waiter.done():  # its caller has been cancelled
                        continue
                    if is_wrong_type(answer):
                        waiter.set_exception(await named_async(self._redis, answer, command))
                    elif isinstance(answer, Exception):
                        waiter.set_exception(answer)
                    else:
                        waiter.set_result(answer)
        finally:
            self._sender = None
            for _, waiter in (*batch, *self._waiting):  # none, unless the loop is closing
                waiter.cancel()

    async def _ask(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            return await pipeline.execute(raise_on_error=False)
        except Exception as error:  # noqa: BLE001 - each caller handles it
            return [error] * len(commands)
