"""A lean model of several ranks, for the engine."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from penstock.errors import EngineFailed
from penstock.models.backends.lean.model import PipelinedLean
from penstock.models.backends.tensor_parallel.leader import Leader
from penstock.models.backends.tensor_parallel.messages import Operation, message

if TYPE_CHECKING:
    from penstock.models.backends.lean.body import Body
    from penstock.models.backends.tensor_parallel.group import Group
    from penstock.models.backends.tensor_parallel.team import Team


class ParallelModel(PipelinedLean):
    """See `penstock.engine.model.Watched`."""

    def __init__(self, body: Body, team: Team, group: Group) -> None:
        super().__init__(body, Leader(body, team))
        body.meet(group)
        self.group = group
        self.team = team

    @property
    def failure(self) -> EngineFailed | None:
        """Which rank has died, and how."""
        return self.team.failure

    def watched(self) -> None:
        """Note that the failure is handled: a rank's death need not end the process."""
        self.team.watched()

    def close(self) -> None:
        """End the other ranks; a process that lost one on a GPU should end too."""
        with suppress(EngineFailed):  # one has gone meanwhile
            self.team.send(message(Operation.LEAVE))
        if self.failure is None or self.body.device.kind == "cpu":
            self.body.leave()  # a GPU's library could wait for the dead rank
        self.team.close()
