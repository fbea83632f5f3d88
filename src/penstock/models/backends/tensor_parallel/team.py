"""The processes of the other ranks, as rank 0 has them."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec

from penstock.errors import EngineFailed, ModelNotLoadable
from penstock.models.backends.tensor_parallel.messages import (
    Answer,
    Operation,
    message,
    receive_json,
    send_json,
)
from penstock.models.spec import ModelSpec

logger = logging.getLogger(__name__)

_LEAVE_S: Final = 10.0
_HEARD_OF_S: Final = 2.0
"""How long its parent may take to hear of a rank's end, after that rank's connections broke."""

_GRACE_S: Final = 30.0
"""How long a load may go on after a rank's death: it may wait for that rank, in vain, for ever."""


class Order(msgspec.Struct, frozen=True):
    """What a rank is started with. `meeting` is the path of a file that the ranks alone have."""

    spec: ModelSpec
    rank: int
    threads: int
    meeting: Path


class _Rank:
    """One process: its line, and a pipe that closes when rank 0 has gone."""

    def __init__(self, order: Order, meeting: int) -> None:
        self.rank = order.rank
        self.line, theirs = socket.socketpair()
        alive, self.lifeline = os.pipe()
        command = [sys.executable, "-P", "-m", "penstock.models.backends.tensor_parallel.follower"]
        try:
            self.process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(alive)],
                pass_fds=(theirs.fileno(), alive, meeting),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the worker, which ends it in its own time
            )
        finally:
            theirs.close()
            os.close(alive)
        send_json(self.line, order)

    def close(self) -> None:
        os.close(self.lifeline)
        self.line.close()
        try:
            self.process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Team:
    """Ranks 1 and up. The computing thread sends; for each rank, a thread watches for its end."""

    def __init__(self, spec: ModelSpec, threads: int) -> None:
        """Start them: they begin to load."""
        self.ranks = spec.tensor_parallel
        # In no folder, so that nothing is left however the processes end. It stays open as long as
        # they do: torch looks into the file by its path until the last store of it is let go.
        meeting = os.memfd_create("penstock-ranks")
        self.meeting = Path(f"/proc/self/fd/{meeting}")
        self._failure: EngineFailed | None = None
        self._dead = threading.Event()  # `failure` is known
        self._at_ease = threading.Event()  # closed, or `failure` is being polled
        self._closed = False
        self._rest = [
            _Rank(Order(spec, rank, threads, self.meeting), meeting)
            for rank in range(1, self.ranks)
        ]
        for rank in self._rest:
            name = f"penstock-rank-{rank.rank}"
            threading.Thread(target=self._watch, args=(rank,), name=name, daemon=True).start()

    @property
    def failure(self) -> EngineFailed | None:
        """What ended the team, if a rank has died."""
        return self._failure

    @property
    def pids(self) -> list[int]:
        """The processes of ranks 1 and up."""
        return [rank.process.pid for rank in self._rest]

    def watched(self) -> None:
        """Note that `failure` is being polled, so a death need not end the process."""
        self._at_ease.set()

    def send(self, data: bytes) -> None:
        """Send a message to all.

        :raises EngineFailed: one has gone.
        """
        try:
            for rank in self._rest:
                rank.line.sendall(data)
        except OSError as error:
            raise self.lost("a rank does not answer") from error

    def answers(self) -> list[int]:
        """What each answers to the last message.

        :raises MemoryError: one has not enough memory.
        :raises ModelNotLoadable: one could not do it.
        :raises EngineFailed: one has gone.
        """
        found: list[Answer] = []
        try:
            found = [receive_json(rank.line, Answer) for rank in self._rest]
        except (OSError, EOFError) as error:
            raise self.lost("a rank does not answer") from error
        for rank, answer in zip(self._rest, found, strict=True):
            if answer.lack:
                raise MemoryError(f"rank {rank.rank}: {answer.error}")
            if answer.error:
                raise ModelNotLoadable(f"rank {rank.rank}: {answer.error}")
        return [answer.value for answer in found]

    def join(self) -> None:
        """Wait until all have loaded, and send them to the meeting."""
        self.answers()
        self.send(message(Operation.JOIN))

    def close(self) -> None:
        """End them."""
        if self._closed:
            return
        self._closed = True
        self._at_ease.set()
        for rank in self._rest:
            rank.close()

    def lost(self, otherwise: str) -> EngineFailed:
        """Which rank it was that something broke on, once its watcher knows, or else `otherwise`.

        A dead process's connections break before its parent hears of it.
        """
        self._dead.wait(_HEARD_OF_S)
        return self._failure or EngineFailed(otherwise)

    def _watch(self, rank: _Rank) -> None:
        status = rank.process.wait()
        if self._closed:
            return
        how = f"was ended by signal {-status}" if status < 0 else f"has ended with status {status}"
        why = f"rank {rank.rank} of {self.ranks} (process {rank.process.pid}) {how}"
        self._failure = self._failure or EngineFailed(why)
        self._dead.set()
        logger.critical("%s: the model cannot go on without it", why)
        if not self._at_ease.wait(_GRACE_S):
            sys.stderr.write(f"penstock: {why} while the model was loaded\n")
            sys.stderr.flush()
            os._exit(os.EX_SOFTWARE)
