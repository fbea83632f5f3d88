"""Which model to load or unload next. A function of what waits, so that it can be tested alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TURN_LOADS: Final = 4.0
"""A model that is in use keeps its place for so many loads: at most a fifth of the time goes into
loading while work waits for several."""
LEAST_TURN_S: Final = 1.0
MOST_WEIGHT: Final = 4.0
"""Priorities make a turn longer or shorter by this factor at most."""
UNKNOWN_LOAD_S: Final = 5.0
"""Assumed for a model that was not loaded yet, if another worker has it in memory."""
GIVE_WAY_S: Final = 0.6
"""A worker that would have to unload a model leaves the load for so long to others, which may have
room: three of their looks."""
MIDDLE: Final = 5
"""The default priority of jobs."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One model at one time; times are monotonic.

    `is_busy`: jobs of it run here. `waiting` jobs of its queue, the oldest for `oldest_s`, have at
    best `priority`; a job that was handed back waits since the model was unloaded. `claiming` other
    workers have it in memory, `loaders` could load it, and another one `is_loading` it. `may_load`:
    it has not failed a moment ago.
    """

    queue: str
    is_resident: bool
    load_s: float
    loaded_s: float
    used_s: float
    is_busy: bool = False
    is_pinned: bool = False
    keep_alive_s: float | None = None
    waiting: int = 0
    oldest_s: float = 0.0
    priority: int = MIDDLE
    claiming: int = 0
    loaders: int = 0
    is_loading: bool = False
    may_load: bool = True

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self.is_busy and not self.waiting

    @property
    def urgency(self) -> float:
        """How soon it should be loaded: by the age of its work, doubled by each step of priority.

        What waits longest is first in the end, whatever its priority.
        """
        return (self.oldest_s + 1.0) * 2.0 ** (MIDDLE - self.priority)


@dataclass(frozen=True, slots=True)
class Change:
    """Load a model, or unload one."""

    queue: str
    loads: bool


def next_change(
    standings: Sequence[Standing],
    now_s: float,
    *,
    most: int,
    fits: Callable[[str], bool],
) -> Change | None:
    """Return what to load or unload now, at most `most` models being in memory; None: nothing.

    `fits` returns whether a model's memory is free.
    """
    residents = [one for one in standings if one.is_resident]
    wanted = max(
        (one for one in standings if _is_wanted(one)), key=lambda one: one.urgency, default=None
    )
    if wanted is not None:
        others = [one for one in residents if not one.is_pinned]
        if len(residents) < most and (fits(wanted.queue) or not others):
            return Change(wanted.queue, loads=True)
        victim = _victim(others, wanted, now_s)
        gives_way = wanted.loaders and wanted.oldest_s < GIVE_WAY_S
        if victim is not None and not gives_way:
            return Change(victim.queue, loads=False)
    unused = next((one for one in residents if _is_unused(one, now_s)), None)
    return None if unused is None else Change(unused.queue, loads=False)


def turn_s(resident: Standing, wanted: Standing) -> float:
    """Return how long a model in use keeps its place while work waits for another one."""
    own = resident.priority if resident.waiting else wanted.priority
    weight = min(max(2.0 ** (wanted.priority - own), 1 / MOST_WEIGHT), MOST_WEIGHT)
    return weight * max(TURN_LOADS * max(resident.load_s, wanted.load_s), LEAST_TURN_S)


def _is_unused(one: Standing, now_s: float) -> bool:
    """Whether a model was idle for as long as it is kept."""
    if not one.is_idle or one.is_pinned or one.keep_alive_s is None:
        return False
    return now_s - one.used_s >= one.keep_alive_s


def _is_wanted(one: Standing) -> bool:
    """Whether a model should be loaded here; not if a worker that has it will soon be free.

    Such a worker is left the work for as long as loading would take.
    """
    if one.is_resident or not one.waiting or not one.may_load or one.is_loading:
        return False
    return not one.claiming or one.oldest_s >= (one.load_s or UNKNOWN_LOAD_S)


def _victim(others: Sequence[Standing], wanted: Standing, now_s: float) -> Standing | None:
    """Return the model that gives its place to the wanted one, if one does now."""
    idle = [one for one in others if one.is_idle]
    if idle:
        return min(idle, key=lambda one: one.used_s)
    over = [one for one in others if now_s - one.loaded_s >= turn_s(one, wanted)]
    return min(over, key=lambda one: one.urgency if one.waiting else 0.0, default=None)
