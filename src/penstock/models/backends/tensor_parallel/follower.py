"""A rank above 0: carries out the messages of rank 0.

    python -m penstock.models.backends.tensor_parallel.follower LINE LIFELINE

Both are numbers of open files. It exits when rank 0 has gone, whatever it is doing, and fails as a
whole when anything fails: rank 0 watches for that.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

from penstock.errors import PenstockError
from penstock.models import devices
from penstock.models.backends.lean.graphs.step_rows import FIELDS
from penstock.models.backends.lean.operations.token_choice import DRAW_FIELDS
from penstock.models.backends.tensor_parallel import loading
from penstock.models.backends.tensor_parallel.group import Group
from penstock.models.backends.tensor_parallel.messages import (
    Answer,
    Operation,
    computed,
    receive,
    receive_json,
)
from penstock.models.backends.tensor_parallel.messages import send_json as send
from penstock.models.backends.tensor_parallel.team import Order
from penstock.models.loading import checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.models.backends.lean.body import Body


def main() -> None:
    """Load, meet the others, and follow."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the worker drains first, and ends this then
    line, lifeline = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    order: Order = receive_json(line, Order)
    logging.basicConfig(format=f"rank {order.rank}: %(levelname)s: %(message)s")
    devices.set_threads(order.threads)
    try:
        body = loading.load_part(order)
    except PenstockError as error:
        send(line, Answer(error=str(error)))
        return
    send(line, Answer())
    try:
        follow(line, body, order)
    except EOFError:  # rank 0 has gone, or is done
        os._exit(0)


def follow(line: socket.socket, body: Body, order: Order) -> NoReturn:
    """Do what comes.

    :raises EOFError: rank 0 has gone.
    """
    while True:
        operation, numbers = receive(line)
        match operation:
            case Operation.LAUNCH:
                count = int(numbers[0])
                fields, draws = numbers[1 : 1 + FIELDS * count], numbers[1 + FIELDS * count :]
                body.launch(fields.reshape(FIELDS, count), draws.reshape(DRAW_FIELDS, count))
            case Operation.COMPUTE:
                packed, hidden = computed(numbers)
                body.compute(packed, hidden=hidden)
            case Operation.NOTE:
                body.note(int(numbers[0]), numbers[1:].tolist())
            case Operation.JOIN:
                spec = order.spec
                ranks = spec.tensor_parallel
                direct = spec.peer_memory
                body.meet(Group(order.meeting, order.rank, ranks, body, direct=direct))
            case Operation.LEAVE:
                body.leave()
            case _:
                send(line, _answer(operation, numbers, body))


def _answer(operation: Operation, numbers: NDArray[np.int32], body: Body) -> Answer:
    """Do what rank 0 waits for."""
    if operation is Operation.FREE_BYTES:
        return Answer(body.free_bytes() >> 20)
    try:
        if operation is Operation.ALLOCATE:
            body.allocate(int(numbers[0]), int(numbers[1]))
        else:
            body.capture()
    except MemoryError as error:
        return Answer(error=checkpoint.first_line(error), lack=True)
    return Answer()


def _end_with(lifeline: int) -> None:
    """End this process when the other end of a pipe is closed."""
    os.read(lifeline, 1)
    os._exit(0)


if __name__ == "__main__":
    main()
