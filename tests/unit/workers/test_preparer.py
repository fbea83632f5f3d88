"""The preparer: from a ticket to the engine, or to the right `Failed` event."""

from __future__ import annotations

from collections import deque
from threading import Timer
from typing import Any, cast

import fakeredis
import msgspec
import pytest

from penstock.contract.adapter import AdapterCard
from penstock.contract.events import Failed, Tokens
from penstock.contract.job import FillPrompt, PairPrompt
from penstock.contract.structure import (
    ChoiceStructure,
    FreeToolStructure,
    Structure,
    ToolFunction,
)
from penstock.engine.events import AttemptEvent
from penstock.engine.sequence import Adapter
from penstock.errors import StoreUnavailable, UnknownModel
from penstock.settings import Settings
from penstock.transport import keys
from penstock.transport.jobs.queue import Claim, Claims
from tests.fixtures.jobs import wait_until
from tests.unit.workers.fakes import FakeEngine, FakeHooks, Slips, make_job, make_served
from workers.serving.claimed_jobs import ClaimedJobs, Outcome, Ticket
from workers.serving.polling import BURST_S
from workers.serving.preparer import Preparer

QUEUE = "a-cpu"


class FakeQueue:
    """Gives claims in turn, and remembers how many were asked for."""

    def __init__(self) -> None:
        self.claims: deque[Claim | Exception] = deque()
        self.asked: list[tuple[int, int, int]] = []
        self.again_s: float | None = None

    def claim(self, queue: str, *, only_returned: bool) -> Claim | None:
        return next(iter(self.claim_many(queue, 1, least=1, held=0).claims), None)

    def claim_many(
        self, queue: str, most: int, *, least: int, held: int, slots: int = 0, token_s: float = 0
    ) -> Claims:
        self.asked.append((most, least, held))
        taken: list[Claim] = []
        while self.claims and len(taken) < most:
            claim = self.claims.popleft()
            if isinstance(claim, Exception):
                raise claim
            taken.append(claim)
        return Claims(tuple(taken), len(self.claims), self.again_s)


class Desk:
    """A preparer that runs in the test's own thread."""

    def __init__(self, **settings: Any) -> None:
        self.store = fakeredis.FakeRedis()
        self.queue: Any = FakeQueue()
        self.claimed = ClaimedJobs()
        self.served = make_served(QUEUE, slots=4)
        self.hooks = FakeHooks(self.claimed)
        self.preparer = Preparer(
            served_queues={QUEUE: self.served},
            claimed=self.claimed,
            jobs=self.queue,
            store=self.store,
            settings=Settings(redis_patience_s=0.1, **settings),
            hooks=self.hooks,
        )

    @property
    def engine(self) -> FakeEngine:
        assert isinstance(self.served.engine, FakeEngine)
        return self.served.engine

    def look_at(self, *, bells: int = 1) -> list[Outcome]:
        slips = Slips()
        for _ in range(bells):
            self.preparer.put(Ticket(QUEUE, slips))
        self.run()
        return slips.outcomes

    def run(self) -> None:
        """Have it do what there is to do now."""
        self.preparer._inbox.put(None)
        self.preparer.run()

    def end(self, attempt: str) -> None:
        """End a job, as the station does."""
        claimed = self.claimed.pop(attempt)
        assert claimed
        claimed.ticket.done(Outcome.ENDED)
        self.preparer.freed(QUEUE)

    def offer(self, job_id: str, *, epoch: int = 1, next_index: int = 0, **options) -> None:
        job = make_job(job_id, QUEUE, **options)
        self.queue.claims.append(Claim(job=job, epoch=epoch, next_index=next_index, attempt=epoch))

    def write_journal(self, job_id: str, lengths: list[int]) -> list[int]:
        token_ids: list[int] = []
        for length in lengths:
            event = Tokens(job_id, len(token_ids), tuple(range(length)), "x")
            self.store.xadd(
                keys.journal(QUEUE, job_id),
                {"e": msgspec.json.encode(event)},
                id=f"1-{len(token_ids)}",
            )
            token_ids += event.token_ids
        return token_ids


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_job_that_was_left_to_another_worker_is_looked_for_without_a_bell(desk: Desk):
    desk.queue.again_s = 0.01
    desk.look_at()
    desk.queue.again_s = None
    stop = Timer(0.2, desk.preparer._inbox.put, (None,))
    stop.start()
    desk.preparer.run()
    assert [least for _, least, _ in desk.queue.asked] == [1, 1]


def test_a_bell_without_a_job_is_done_at_once(desk: Desk):
    assert desk.look_at() == [Outcome.EMPTY]


def test_a_claimed_job_goes_to_the_engine_under_its_attempt(desk: Desk):
    desk.offer("one", epoch=2, text="hi")
    assert desk.look_at() == []
    (request,) = desk.engine.submitted
    assert (request.job_id, request.attempt_id) == ("one", "one:2")
    assert request.prompt_token_ids == [104, 105]
    assert (request.generated_token_ids, request.echo_text) == ((), "")
    assert desk.claimed.get("one:2") is not None


@pytest.mark.parametrize(
    ("setting", "scopes"),
    [("tenant", ["tenant:a", "tenant:b"]), ("shared", ["shared", "shared"]), ("off", ["", ""])],
)
def test_drafts_come_from_a_tenants_own_answers(setting: str, scopes: list[str]):
    desk = Desk(answer_drafts=setting)
    for tenant in ("a", "b"):
        job = msgspec.structs.replace(make_job(tenant, QUEUE), tenant=tenant)
        desk.queue.claims.append(Claim(job=job, epoch=1, next_index=0, attempt=1))
    desk.look_at(bells=2)
    assert sorted(request.scope for request in desk.engine.submitted) == sorted(scopes)


@pytest.mark.parametrize(("setting", "owners"), [("all", ["", ""]), ("tenant", ["a", "b"])])
def test_a_prefix_cache_is_a_tenants_own_if_the_operator_wants_it(setting: str, owners: list[str]):
    desk = Desk(kv_sharing=setting)
    for tenant in ("a", "b"):
        job = msgspec.structs.replace(make_job(tenant, QUEUE), tenant=tenant)
        desk.queue.claims.append(Claim(job=job, epoch=1, next_index=0, attempt=1))
    desk.look_at(bells=2)
    assert sorted(request.cache_owner for request in desk.engine.submitted) == owners


class Shelf:
    """Has the adapter `there` in memory once it was asked for; nobody has `gone`."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def has(self, card: AdapterCard) -> bool:
        return card.digest in self.loaded

    def get(self, card: AdapterCard) -> Adapter:
        if card.name == "gone":
            raise UnknownModel("the adapter 'gone': no folder")
        self.loaded.append(card.digest)
        return Adapter(card.digest.encode(), card.name)


def test_an_adapter_is_loaded_apart_and_one_that_is_not_here_fails_its_job(desk: Desk):
    desk.served.adapters = cast("Any", Shelf())
    for name in ("there", "gone"):
        job = msgspec.structs.replace(make_job(name, QUEUE), adapter=AdapterCard(name, name, ""))
        desk.queue.claims.append(Claim(job=job, epoch=1, next_index=0, attempt=1))
    for _ in range(2):
        desk.preparer.put(Ticket(QUEUE, Slips()))
    desk.preparer.start()
    wait_until(lambda: desk.engine.submitted and desk.hooks.published)
    desk.preparer.close()
    desk.preparer.join(10)
    (request,) = desk.engine.submitted
    assert request.adapter == Adapter(b"there", "there")
    (failed,) = [event.event for event in desk.hooks.published]
    assert isinstance(failed, Failed)
    assert (failed.job_id, failed.code) == ("gone", "model_not_found")


def test_an_echo_is_the_prompts_text(desk: Desk):
    desk.offer("one", text="hi", echo=True)
    desk.look_at()
    assert desk.engine.submitted[0].echo_text == "hi"


def test_a_middle_ends_at_the_models_tokens_for_it(desk: Desk):
    job = make_job("one", QUEUE)
    work = msgspec.structs.replace(job.work, prompt=FillPrompt("a", "b"), echo=True)
    job = msgspec.structs.replace(job, work=work)
    desk.queue.claims.append(Claim(job=job, epoch=1, next_index=0, attempt=1))
    desk.look_at()
    (request,) = desk.engine.submitted
    assert request.sampling.stop_token_ids == (7,)
    assert request.echo_text == "a"


def test_a_stop_string_that_is_a_token_ends_by_its_id(desk: Desk):
    job = make_job("one", QUEUE)
    sampling = msgspec.structs.replace(job.work.sampling, stop=("end", "<|one|>"))
    job = msgspec.structs.replace(job, work=msgspec.structs.replace(job.work, sampling=sampling))
    desk.queue.claims.append(Claim(job=job, epoch=1, next_index=0, attempt=1))
    desk.look_at()
    (request,) = desk.engine.submitted
    assert request.stop_tokens == {1: "<|one|>"}
    assert request.sampling.stop == ("end", "<|one|>")


def test_a_pair_brings_its_tokens_types(desk: Desk):
    job = make_job("one", QUEUE)
    work = msgspec.structs.replace(job.work, prompt=PairPrompt("a", "bc"), embed=True)
    job = msgspec.structs.replace(job, work=work)
    desk.queue.claims.append(Claim(job=job, epoch=1, next_index=0, attempt=1))
    desk.look_at()
    (request,) = desk.engine.submitted
    assert (request.embeds, list(request.token_types)) == (True, [0, 1, 1])


def test_a_job_goes_on_after_the_tokens_of_its_journal(desk: Desk):
    token_ids = desk.write_journal("one", [1, 3] + [1] * 1500)
    desk.offer("one", epoch=2, next_index=len(token_ids))
    desk.look_at()
    assert list(desk.engine.submitted[0].generated_token_ids) == token_ids


def test_a_journal_with_a_hole_fails_the_job(desk: Desk):
    desk.write_journal("one", [2])
    desk.offer("one", epoch=2, next_index=5)
    desk.look_at()
    (failed,) = desk.hooks.published
    assert isinstance(failed.event, Failed)
    assert failed.attempt_id == "one:2"
    assert failed.event.job_id == "one"
    assert (failed.event.index, failed.event.code) == (5, "store_unavailable")
    assert desk.engine.submitted == []


def test_a_prompt_that_the_template_refuses_fails_with_its_code(desk: Desk):
    desk.offer("one", text="refused")
    desk.look_at()
    event = Failed("one", 0, "invalid_parameter", "no such role")
    assert desk.hooks.published == [AttemptEvent("one:1", event)]


@pytest.mark.parametrize(
    ("structure", "fails"),
    [(ChoiceStructure(("a",)), True), (FreeToolStructure((ToolFunction("f"),)), False)],
)
def test_a_form_that_cannot_be_compiled_fails_the_job_if_the_request_insists_on_it(
    desk: Desk, structure: Structure, fails: bool
):
    job = make_job("one", QUEUE)
    sampling = msgspec.structs.replace(job.work.sampling, structure=structure)
    work = msgspec.structs.replace(job.work, sampling=sampling)
    job = msgspec.structs.replace(job, work=work)
    desk.queue.claims.append(Claim(job=job, epoch=1, next_index=0, attempt=1))
    desk.look_at()
    event = Failed("one", 0, "invalid_parameter", "no such form", "structure")
    assert desk.hooks.published == ([AttemptEvent("one:1", event)] if fails else [])
    assert [request.constraint for request in desk.engine.submitted] == ([] if fails else [None])


def test_an_error_of_the_tokenizer_fails_the_job_and_not_the_thread(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    def explode(prompt: object) -> list[int]:
        raise RuntimeError("boom")

    monkeypatch.setattr(desk.served.tokenizer, "encode", explode)
    desk.offer("one")
    desk.look_at()
    (failed,) = desk.hooks.published
    assert isinstance(failed.event, Failed)
    assert failed.event.code == "engine_failed"
    assert "boom" in failed.event.message


def test_the_bell_is_put_back_when_redis_is_away(desk: Desk):
    desk.queue.claims.append(StoreUnavailable("away"))
    assert desk.look_at() == [Outcome.PUT_BACK]


def test_an_older_attempt_at_the_same_job_is_lost(desk: Desk):
    desk.offer("one", epoch=1)
    desk.look_at()
    desk.offer("one", epoch=2)
    desk.look_at()
    assert desk.hooks.lost == ["one:1"]
    assert desk.claimed.get("one:1") is None
    assert desk.claimed.get("one:2") is not None


def test_one_bell_brings_as_many_jobs_as_there_are_slots(desk: Desk):
    for number in range(6):
        desk.offer(f"j{number}")
    assert desk.look_at() == []
    assert desk.queue.asked == [(4, 1, 0)]
    assert [one.attempt_id for one in desk.engine.submitted] == ["j0:1", "j1:1", "j2:1", "j3:1"]
    assert desk.claimed.taken(QUEUE) == 4


def test_a_bell_for_a_full_lane_is_for_others(desk: Desk):
    for number in range(5):
        desk.offer(f"j{number}")
    assert desk.look_at(bells=2) == [Outcome.FULL]
    assert len(desk.queue.claims) == 1


def test_a_full_lane_is_not_consumed_until_a_look_finds_nothing(desk: Desk):
    for number in range(5):
        desk.offer(f"j{number}")
    desk.look_at()
    assert desk.hooks.consumed == [False]
    desk.end("j1:1")
    desk.run()
    assert desk.engine.submitted[-1].attempt_id == "j4:1"
    assert desk.queue.asked[-1] == (1, 0, 3)
    desk.end("j2:1")
    Timer(10 * BURST_S, desk.preparer._inbox.put, (None,)).start()
    desk.preparer.run()  # it looks again while it is a burst, then no more
    assert desk.hooks.consumed == [False, True]
    assert desk.claimed.taken(QUEUE) == 3


def test_slots_that_become_free_together_call_for_one_look(desk: Desk):
    for number in range(7):
        desk.offer(f"j{number}")
    desk.look_at()
    for number in range(3):
        desk.end(f"j{number}:1")
    desk.run()
    assert [most for most, _, _ in desk.queue.asked] == [4, 3]
    assert desk.claimed.taken(QUEUE) == 4


def test_the_first_jobs_end_ends_its_bell_and_the_others_have_none(desk: Desk):
    slips = Slips()
    for number in range(2):
        desk.offer(f"j{number}")
    desk.preparer.put(Ticket(QUEUE, slips))
    desk.run()
    desk.end("j1:1")
    assert slips.outcomes == []
    desk.end("j0:1")
    assert slips.outcomes == [Outcome.ENDED]


def test_a_spare_place_takes_no_slot(desk: Desk):
    desk.offer("back", epoch=2)
    claimed: list[bool] = []
    desk.preparer.put(
        Ticket(QUEUE, only_returned=True, has_bell=False, claimed=lambda: claimed.append(True))
    )
    desk.run()
    assert claimed == [True]
    assert desk.claimed.taken(QUEUE) == 0
    assert len(desk.engine.submitted) == 1


def test_a_look_for_returned_jobs_puts_off_no_other(desk: Desk):
    for number in range(2):
        desk.offer(f"j{number}")
    desk.look_at()
    polling = desk.preparer._pollings[QUEUE]
    due_s = polling.due_s
    assert due_s is not None
    desk.preparer.put(Ticket(QUEUE, only_returned=True, has_bell=False))
    desk.run()
    assert polling.due_s == due_s


def test_a_resting_preparer_puts_bells_back_and_looks_when_it_goes_on(desk: Desk):
    for number in range(5):
        desk.offer(f"j{number}")
    desk.look_at()
    desk.hooks.resting = True
    desk.end("j0:1")
    assert desk.look_at() == [Outcome.PUT_BACK]
    assert len(desk.engine.submitted) == 4
    desk.hooks.resting = False
    desk.preparer.freed(QUEUE)
    desk.run()
    assert len(desk.engine.submitted) == 5


def test_a_job_that_is_lost_before_it_is_handed_over_is_not(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    for number in range(2):
        desk.offer(f"j{number}")

    def encode(prompt: object) -> list[int]:
        desk.claimed.pop("j0:1")
        return [1]

    monkeypatch.setattr(desk.served.tokenizer, "encode", encode)
    desk.look_at()
    assert [one.attempt_id for one in desk.engine.submitted] == ["j1:1"]


@pytest.mark.parametrize("only_returned", [False, True], ids=["bell", "spare place"])
def test_what_an_engine_does_not_take_is_let_go_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, only_returned: bool
):
    def explode(*requests: object) -> None:
        raise MemoryError

    monkeypatch.setattr(desk.engine, "submit", explode)
    slips = Slips()
    for number in range(2):
        desk.offer(f"j{number}")
    desk.preparer.put(Ticket(QUEUE, slips, only_returned=only_returned))
    desk.run()
    taken = ["j0:1"] if only_returned else ["j0:1", "j1:1"]
    assert (slips.outcomes, desk.hooks.lost, len(desk.claimed)) == ([Outcome.ENDED], taken, 0)
    monkeypatch.undo()
    if only_returned:
        return
    desk.offer("next")
    desk.look_at()
    assert desk.engine.submitted[-1].attempt_id == "next:1"


def test_a_claim_that_cannot_be_held_ends_its_bell_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    def explode(claimed: object) -> None:
        raise MemoryError

    monkeypatch.setattr(desk.claimed, "add", explode)
    desk.offer("one")
    assert desk.look_at() == [Outcome.EMPTY]


def test_a_closed_preparer_puts_every_bell_back(desk: Desk):
    desk.offer("one")
    slips = Slips()
    desk.preparer.put(Ticket(QUEUE, slips))
    desk.preparer.close()
    desk.preparer.run()
    assert slips.outcomes == [Outcome.PUT_BACK]
