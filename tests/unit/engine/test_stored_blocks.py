"""An engine that finds another one's blocks in the store, whatever happens to the store."""

from __future__ import annotations

import errno
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.reuse import kv_store, read_ahead
from penstock.engine.reuse.block_files import BlockFiles
from penstock.engine.reuse.digests import extend_digests
from penstock.engine.reuse.kv_store import KVStore, NotRead
from penstock.engine.reuse.stored_blocks import state_name
from penstock.engine.sequence import SequenceRequest
from tests.fixtures.engine import HashModel, StateModel, Transcript, WordTokenizer, greedy_text
from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VOCAB = 50
BLOCK = 4
PROMPT = [(7 * n) % VOCAB for n in range(101)]
ANSWER = greedy_text(PROMPT, 20, VOCAB)
IDENTITY = b"i" * 16


class StorableHashModel(HashModel):
    """A `HashModel` whose blocks are bytes."""

    block_format = "hash"

    def read_block(self, block: int) -> bytes:
        return bytes(token_id + 1 for token_id in self.cache[block])

    def write_block(self, block: int, content: bytes) -> bool:
        if len(content) != BLOCK:
            return False
        self.cache[block] = [byte - 1 for byte in content]
        return True


class StorableStateModel(StateModel, StorableHashModel):
    """A `StateModel` whose blocks and states are bytes."""

    def read_state(self, place: int) -> bytes:
        return bytes(token_id + 1 for token_id in self.states[place])

    def write_state(self, place: int, content: bytes) -> bool:
        self.states[place] = [byte - 1 for byte in content]
        return True


class Worker:
    """An engine with a thread of its own and an empty cache."""

    def __init__(self, files: BlockFiles, blocks: int = 80, states: int = 0) -> None:
        sizes: dict[str, Any] = {"block_size": BLOCK, "vocab_size": VOCAB}
        self.model: HashModel = (
            StorableStateModel(blocks, states, **sizes)
            if states
            else StorableHashModel(blocks, **sizes)
        )
        self.transcript = Transcript()
        self.store = KVStore(files)
        options = EngineOptions(4, blocks, prefill_chunk_tokens=32, num_states=states)
        self.engine = Engine(
            self.model, WordTokenizer(), options, self.transcript, store=self.store
        )

    def ask(self, job: str, prompt: list[int] = PROMPT, **fields: Any) -> tuple[list[int], int]:
        """Return the answer's tokens, and how many of the prompt's were found."""
        self.transcript.start[job] = len(fields.get("generated_token_ids", ()))
        sampling = Sampling(seed=0, temperature=0.0, max_tokens=20)
        self.engine.submit(SequenceRequest(job, prompt, sampling, **fields))
        wait_until(lambda: job in self.transcript.ends, 20.0)
        end = self.transcript.finished(job)
        return self.transcript.tokens[job], end.usage.cached_tokens

    @property
    def computed(self) -> int:
        return sum(tokens for _, tokens in self.model.steps)


@contextmanager
def running(folder: Path, most_bytes: int = 2**20, **options: int) -> Iterator[Worker]:
    worker = Worker(BlockFiles(folder, IDENTITY, most_bytes), **options)
    worker.engine.start()
    try:
        yield worker
    finally:
        worker.engine.stop()


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A store in which a worker that has ended left a prompt and its answer."""
    with running(tmp_path) as worker:
        assert worker.ask("first") == (ANSWER, 0)
    return tmp_path


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers start without what the store has."""
    monkeypatch.setattr("penstock.engine.engine.WARM_S", 0.0)


@pytest.mark.usefixtures("cold")
def test_another_worker_loads_what_was_computed(filled: Path):
    with running(filled) as worker:
        assert worker.ask("again") == (ANSWER, 100)
        assert worker.computed < 25  # the last token of the prompt, and the answer's
        load = worker.engine.load()
        assert load.store
        assert load.store.loaded_tokens_total == 100
        assert load.store.read_bytes_total == 100
        assert load.cached_tokens_total == 100
        # It is in its own memory now.
        assert worker.ask("third") == (ANSWER, 100)
        load = worker.engine.load()
        assert load.store
        assert load.store.loaded_tokens_total == 100


@pytest.mark.usefixtures("cold")
def test_an_answer_that_another_worker_began_goes_on_from_its_blocks(filled: Path):
    with running(filled) as worker:
        tokens, _ = worker.ask("half", generated_token_ids=ANSWER[:12])
        assert tokens == ANSWER[12:]
        assert worker.computed < 15


def test_a_worker_finds_its_blocks_again_when_it_starts(filled: Path):
    with running(filled) as worker:
        read = worker.store.counts.read_blocks
        assert read >= 25
        assert worker.ask("again") == (ANSWER, 100)
        assert worker.store.counts.read_blocks == read  # none was read a second time


@pytest.mark.usefixtures("cold")
def test_a_prompt_that_parts_from_another_loads_what_they_share(filled: Path):
    prompt = [*PROMPT[:50], 1, 1, 1, 1, *PROMPT[50:]]
    with running(filled) as worker:
        assert worker.ask("other", prompt) == (greedy_text(prompt, 20, VOCAB), 48)


@pytest.mark.usefixtures("cold")
def test_owners_share_nothing(filled: Path):
    with running(filled) as worker:
        assert worker.ask("a", cache_owner="tenant") == (ANSWER, 0)
        assert worker.ask("b", cache_owner="tenant") == (ANSWER, 100)
        assert worker.ask("c", cache_owner="another") == (ANSWER, 0)


@pytest.mark.usefixtures("cold")
def test_several_at_once_and_preempted_ones_load_too(filled: Path):
    with running(filled, blocks=60) as worker:
        for number in range(4):
            worker.transcript.start[f"j{number}"] = 0
        sampling = Sampling(seed=0, temperature=0.0, max_tokens=20)
        prompts = [[*PROMPT[: 40 + number], number] for number in range(4)]
        worker.engine.submit(
            *(SequenceRequest(f"j{n}", prompt, sampling) for n, prompt in enumerate(prompts))
        )
        wait_until(lambda: len(worker.transcript.ends) == 4, 20.0)
        for number, prompt in enumerate(prompts):
            assert worker.transcript.tokens[f"j{number}"] == greedy_text(prompt, 20, VOCAB)


@pytest.mark.usefixtures("cold")
def test_a_prompt_that_is_scored_is_computed_also_after_it_was_preempted(filled: Path):
    worker = Worker(BlockFiles(filled, IDENTITY, 2**20))
    worker.store.start()
    worker.transcript.start["scored"] = 0
    sampling = Sampling(seed=0, temperature=0.0, max_tokens=1, logprobs=0)
    worker.engine.submit(SequenceRequest("scored", PROMPT, sampling, scores_prompt=True))
    worker.engine.turn()
    worker.engine._scheduler.preempt_last()
    while not worker.transcript.ends:
        worker.engine.turn()
    assert worker.store.counts.read_blocks == 0
    assert worker.computed >= 32 + len(PROMPT)
    worker.store.close()


def test_a_start_holds_one_block_of_the_store_at_a_time(filled: Path, monkeypatch: Any):
    calls: list[str] = []
    for kind, name in ((KVStore, "read"), (StorableHashModel, "write_block")):
        call = getattr(kind, name)
        monkeypatch.setattr(
            kind, name, lambda *a, call=call, name=name: calls.append(name) or call(*a)
        )
    with running(filled) as worker:
        assert calls == ["read", "write_block"] * (len(calls) // 2)
        assert worker.ask("again") == (ANSWER, 100)


# A model whose layers keep states


STATES = 12
AT_END = 100
"""Tokens of the prompt before its last state: its full blocks."""


@pytest.fixture
def with_states(tmp_path: Path) -> Path:
    """A store in which a worker of a model with states left a prompt and its answer."""
    with running(tmp_path, states=STATES) as worker:
        assert worker.ask("first") == (ANSWER, 0)
    return tmp_path


def test_blocks_are_loaded_with_the_state_after_them(with_states: Path):
    with running(with_states, states=STATES) as worker:
        assert worker.ask("again") == (ANSWER, AT_END)
        assert worker.computed < 25
        found = worker.store.counts.read_blocks
        assert worker.ask("third") == (ANSWER, AT_END)  # from its own memory
        assert worker.store.counts.read_blocks == found


def test_the_next_turn_begins_after_the_answer(with_states: Path):
    prompt = [*PROMPT, *ANSWER, 3, 1, 4, 1, 5]
    with running(with_states, states=STATES) as worker:
        answer, cached = worker.ask("next", prompt)
        assert answer == greedy_text(prompt, 20, VOCAB)
        assert cached == 112  # the newest of every fourth block


def test_an_answer_that_was_begun_goes_on_from_its_prompts_state(with_states: Path):
    with running(with_states, states=STATES) as worker:
        tokens, _ = worker.ask("half", generated_token_ids=ANSWER[:12])
        assert tokens == ANSWER[12:]
        assert worker.computed < 25


def test_without_its_state_nothing_is_loaded(with_states: Path):
    with running(with_states, states=STATES) as worker:
        digests: list[bytes] = []
        extend_digests(digests, PROMPT, BLOCK)
        worker.store._files._path(state_name(digests[24])).unlink()
        assert worker.ask("again") == (ANSWER, 0)


@pytest.mark.parametrize("block", [0, 10, 24])
def test_a_damaged_block_before_a_state_is_computed_again(with_states: Path, block: int):
    with running(with_states, states=STATES) as worker:
        digests: list[bytes] = []
        extend_digests(digests, PROMPT, BLOCK)
        worker.store._files._path(digests[block]).write_bytes(b"damaged")
        assert worker.ask("again") == (ANSWER, 0)
        assert worker.ask("third") == (ANSWER, AT_END)


# What happens to the store


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("block", [0, 10, 24])
def test_a_damaged_block_is_computed(filled: Path, block: int):
    with running(filled) as worker:
        digests: list[bytes] = []
        extend_digests(digests, PROMPT, BLOCK)
        path = worker.store._files._path(digests[block])
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        assert worker.ask("again") == (ANSWER, block * BLOCK)


@pytest.mark.usefixtures("cold")
def test_blocks_of_another_size_are_computed(filled: Path):
    with running(filled) as worker:
        for path in filled.rglob("*.kv"):
            digest = bytes.fromhex(path.stem)
            worker.store._files.write(digest, b"longer than a block")
        assert worker.ask("again") == (ANSWER, 0)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), MemoryError()])
def test_a_full_disk_costs_nothing_but_the_store(tmp_path: Path, monkeypatch: Any, error: Any):
    def full(*_: Any) -> None:
        raise error

    monkeypatch.setattr(BlockFiles, "write", full)
    with running(tmp_path) as worker:
        assert worker.ask("first") == (ANSWER, 0)
        wait_until(lambda: worker.store.counts.errors)
        assert worker.ask("again") == (ANSWER, 100)  # from its own memory
        assert worker.store.counts.written_blocks == 0
        assert worker.store.is_alive()


def test_a_store_that_is_no_folder_costs_nothing_but_the_store(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    with running(tmp_path / "file") as worker:
        assert worker.ask("first") == (ANSWER, 0)
        wait_until(lambda: worker.store.counts.errors)


@pytest.mark.usefixtures("cold")
def test_a_store_that_is_deleted_under_a_worker_is_filled_again(filled: Path):
    with running(filled) as worker:
        shutil.rmtree(filled)
        assert worker.ask("again") == (ANSWER, 0)
        wait_until(lambda: len(list(filled.rglob("*.kv"))) >= 25)


def slow_disk(monkeypatch: Any, seconds: float) -> None:
    """Have each block take so long to be read."""
    read = BlockFiles.read

    def slow(self: BlockFiles, digest: bytes) -> bytes | None:
        time.sleep(seconds)
        return read(self, digest)

    monkeypatch.setattr(BlockFiles, "read", slow)


@pytest.mark.usefixtures("cold")
def test_a_slow_disk_is_not_waited_for(filled: Path, monkeypatch: Any):
    slow_disk(monkeypatch, 0.6)
    with running(filled) as worker:
        began_s = time.monotonic()
        tokens, found = worker.ask("again")
        assert tokens == ANSWER
        assert found == 0
        assert time.monotonic() - began_s < 3.0


@pytest.mark.usefixtures("cold")
def test_others_go_on_while_a_sequence_waits_for_the_disk(filled: Path, monkeypatch: Any):
    """Each block takes 0.1 s to be read: loading goes on, and no step waits for it."""
    slow_disk(monkeypatch, 0.1)
    worker = Worker(BlockFiles(filled, IDENTITY, 2**20))
    worker.store.start()
    other, loading = [3, 1, 4], PROMPT[:13]
    sampling = Sampling(seed=0, temperature=0.0, max_tokens=60)
    worker.transcript.start |= {"other": 0, "loading": 0}
    worker.engine.submit(SequenceRequest("other", other, sampling))
    worker.engine.turn()
    worker.engine.submit(SequenceRequest("loading", loading, sampling))
    waits: list[float] = []
    wait = KVStore.wait
    monkeypatch.setattr(KVStore, "wait", lambda *a: waits.append(1.0) or wait(*a))
    while len(worker.transcript.tokens["other"]) < 60:
        worker.engine.turn()
        time.sleep(0.01)  # a step
    assert not waits  # as long as another sequence decoded
    while len(worker.transcript.ends) < 2:
        worker.engine.turn()
    assert worker.transcript.tokens["other"] == greedy_text(other, 60, VOCAB)
    assert worker.transcript.tokens["loading"] == greedy_text(loading, 60, VOCAB)
    assert worker.transcript.finished("loading").usage.cached_tokens == 12
    worker.store.close()


@pytest.mark.usefixtures("cold")
def test_a_sequence_alone_waits_for_the_disk_without_spinning(filled: Path, monkeypatch: Any):
    slow_disk(monkeypatch, 0.05)
    worker = Worker(BlockFiles(filled, IDENTITY, 2**20))
    worker.store.start()
    worker.transcript.start["alone"] = 0
    sampling = Sampling(seed=0, temperature=0.0, max_tokens=1)
    worker.engine.submit(SequenceRequest("alone", PROMPT[:13], sampling))
    turns = 0
    while not worker.transcript.ends:
        worker.engine.turn()
        turns += 1
    assert worker.transcript.finished("alone").usage.cached_tokens == 12
    assert turns < 40
    worker.store.close()


def test_what_a_slow_disk_cannot_take_is_dropped(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(kv_store, "MOST_UNWRITTEN_BYTES", 10)
    store = KVStore(BlockFiles(tmp_path, IDENTITY, 2**20))
    assert store.wants(b"a" * 16, 8)
    store.save(b"a" * 16, b"8 bytes.")
    assert not store.wants(b"b" * 16, 8)
    assert store.counts.dropped_blocks == 1
    store.start()
    wait_until(lambda: store.wants(b"b" * 16, 8))
    store.close()


def test_what_is_not_taken_is_bounded(filled: Path, monkeypatch: Any):
    monkeypatch.setattr(read_ahead, "MOST_UNREAD_BYTES", 3 * BLOCK)
    files = BlockFiles(filled, IDENTITY, 2**20)
    digests = files.newest(20)
    store = KVStore(files)
    store.start()
    store.expect(1, digests)
    wait_until(lambda: store.counts.read_blocks >= 4)
    time.sleep(0.05)
    assert store.counts.read_blocks <= 5
    names: list[bytes] = []
    while (found := store.take(1)) is not NotRead.MISSING:
        if not isinstance(found, NotRead):
            names.append(found[0])
    assert names == digests
    store.expect(1, digests)
    store.forget(1)
    assert store.take(1) is NotRead.MISSING
    store.close()


@pytest.mark.usefixtures("cold")
def test_a_store_slower_than_computing_is_not_used(filled: Path, monkeypatch: Any):
    with running(filled) as worker:
        monkeypatch.setattr(worker.store, "read_s", lambda _size: 1e9)
        monkeypatch.setattr(worker.engine._budget._cost, "read", lambda: (0.001, 0.001))
        assert worker.ask("again") == (ANSWER, 0)
        assert worker.store.counts.read_blocks == 0
