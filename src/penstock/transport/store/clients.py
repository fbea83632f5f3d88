"""Clients of Redis that check the shape of every reply before it is used."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

import redis
import redis.asyncio
import redis.asyncio.client
import redis.client

from penstock.transport.store import shapes
from penstock.transport.store.repeated_lines import lines
from penstock.transport.store.wrong_types import AsyncNamingRedis, NamingRedis

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = logging.getLogger(__name__)

_COMMAND: Final = "penstock_command"
"""The option that carries a command to where its reply is read."""
_SPECIAL: Final = (redis.client.EMPTY_RESPONSE, redis.client.NEVER_DECODE)
_EXEC: Final = ("EXEC",)


def _note(error: shapes.WrongShapeError) -> None:
    """Write a line about a reply of another shape, unless one has been written just now."""
    if lines.is_due(str(error)):
        _log.error("Redis: %s", error)


def _read_by(client: Any, command_name: str, reply: Any, options: dict[str, Any]) -> Any:
    """Return what redis-py makes of a reply."""
    options.pop("keys", None)  # redis-py's cache alone needs it
    if command_name in client.response_callbacks:
        return client.response_callbacks[command_name](reply, **options)
    return reply


class CheckedRedis(redis.Redis):
    """A synchronous client.

    A reply of another shape closes its connection: the replies after it may be those of other
    commands.
    """

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command.

        :raises WrongShapeError: the reply is no answer to it.
        """
        return cast("Any", super()).execute_command(*args, **{**options, _COMMAND: args})

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """Read a reply and check it."""
        command = options.pop(_COMMAND, (command_name,))
        if any(name in options for name in _SPECIAL):
            return cast("Any", super()).parse_response(connection, command_name, **options)
        reply = connection.read_response()
        try:
            shapes.check(command, reply)
        except shapes.WrongShapeError as error:
            _note(error)
            connection.disconnect()
            raise
        return _read_by(self, command_name, reply, options)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> CheckedPipeline:
        """Return a pipeline whose replies are checked, too."""
        pool: Any = self.connection_pool
        return CheckedPipeline(pool, self.response_callbacks, transaction, shard_hint)


class AsyncCheckedRedis(redis.asyncio.Redis):
    """The same without blocking the event loop."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command.

        :raises WrongShapeError: the reply is no answer to it.
        """
        return await cast("Any", super()).execute_command(*args, **{**options, _COMMAND: args})

    async def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """Read a reply and check it."""
        command = options.pop(_COMMAND, (command_name,))
        if any(name in options for name in _SPECIAL):
            return await cast("Any", super()).parse_response(connection, command_name, **options)
        reply = await connection.read_response()
        try:
            shapes.check(command, reply)
        except shapes.WrongShapeError as error:
            _note(error)
            await connection.disconnect(nowait=True)
            raise
        return _read_by(self, command_name, reply, options)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> AsyncCheckedPipeline:
        """Return a pipeline whose replies are checked, too."""
        pool: Any = self.connection_pool
        return AsyncCheckedPipeline(pool, self.response_callbacks, transaction, shard_hint)


class _Awaited:
    """Which replies a pipeline reads next."""

    def __init__(self) -> None:
        self._commands: Sequence[Sequence[Any]] = ()
        self._left: deque[Sequence[Any]] = deque()

    def pipeline(self, stack: Sequence[Any]) -> None:
        """Await a reply to each command."""
        self._left = deque(args for args, _ in stack)

    def transaction(self, stack: Sequence[Any]) -> None:
        """Await the replies to MULTI, to each command, and to EXEC."""
        self._commands = [args for args, _ in stack]
        sent = [args for args, options in stack if redis.client.EMPTY_RESPONSE not in options]
        self._left = deque([("MULTI",), *[("QUEUED",)] * len(sent), _EXEC])

    def next(self, command_name: Any) -> Sequence[Any]:
        """Return the command whose reply comes next, be it an error."""
        return self._left.popleft() if self._left else (command_name,)

    def check(self, command: Sequence[Any], reply: Any, *, watching: bool) -> None:
        """Check the reply to a command.

        :raises WrongShapeError: it is no answer to it.
        """
        if command is _EXEC:
            shapes.check_transaction(self._commands, reply, watching=watching)
        else:
            shapes.check(command, reply)


class CheckedPipeline(redis.client.Pipeline):
    """A pipeline of `CheckedRedis`."""

    def __init__(self, *args: Any) -> None:
        cast("Any", super()).__init__(*args)
        self._awaited = _Awaited()

    def _execute_transaction(self, connection: Any, commands: Any, raise_on_error: Any) -> Any:
        self._awaited.transaction(commands)
        return cast("Any", super())._execute_transaction(connection, commands, raise_on_error)  # noqa: SLF001  redis-py's only seam

    def _execute_pipeline(self, connection: Any, commands: Any, raise_on_error: Any) -> Any:
        self._awaited.pipeline(commands)
        return cast("Any", super())._execute_pipeline(connection, commands, raise_on_error)  # noqa: SLF001  redis-py's only seam

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """Read a reply and check it."""
        command = self._awaited.next(command_name)
        reply = connection.read_response()
        try:
            self._awaited.check(command, reply, watching=self.watching)
        except shapes.WrongShapeError as error:
            _note(error)
            connection.disconnect()
            raise
        if command_name in self.UNWATCH_COMMANDS:
            self.watching = False
        elif command_name == "WATCH":
            self.watching = True
        return _read_by(self, command_name, reply, options)


class AsyncCheckedPipeline(redis.asyncio.client.Pipeline):
    """A pipeline of `AsyncCheckedRedis`. None of ours watches keys."""

    def __init__(self, *args: Any) -> None:
        cast("Any", super()).__init__(*args)
        self._awaited = _Awaited()

    async def _execute_transaction(
        self, connection: Any, commands: Any, raise_on_error: Any
    ) -> Any:
        self._awaited.transaction(commands)
        return await cast("Any", super())._execute_transaction(connection, commands, raise_on_error)  # noqa: SLF001  redis-py's only seam

    async def _execute_pipeline(self, connection: Any, commands: Any, raise_on_error: Any) -> Any:
        self._awaited.pipeline(commands)
        return await cast("Any", super())._execute_pipeline(connection, commands, raise_on_error)  # noqa: SLF001  redis-py's only seam

    async def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """Read a reply and check it."""
        command = self._awaited.next(command_name)
        reply = await connection.read_response()
        try:
            self._awaited.check(command, reply, watching=False)
        except shapes.WrongShapeError as error:
            _note(error)
            await connection.disconnect(nowait=True)
            raise
        return _read_by(self, command_name, reply, options)


class StoreClient(NamingRedis, CheckedRedis):
    """Our synchronous client: its errors name the key that has another type, too."""


class AsyncStoreClient(AsyncNamingRedis, AsyncCheckedRedis):
    """Our asynchronous client."""
