"""What a captured step reads. What the kernels make of it is a GPU's test."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import torch

from penstock.engine.model import Batch, SequenceSlice
from penstock.models.backends.lean.body import with_windows
from penstock.models.backends.lean.graphs.block_tables import BlockTables
from penstock.models.backends.lean.graphs.chunk_graphs import (
    MOST_TOKENS,
    PIECE,
    ChunkGraphs,
    buckets,
    pieces,
)
from penstock.models.backends.lean.graphs.decode_graphs import DecodeGraphs
from penstock.models.backends.lean.graphs.step_rows import FIELDS, PADDING, Chunk, Step, pack
from penstock.models.devices import Cpu

if TYPE_CHECKING:
    from collections.abc import Callable

SEQUENCES = 6


class Capturing(Cpu):
    """Has graphs: what was captured is run again."""

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """Run it, as a device does to warm up."""

        def replay() -> None:
            work()

        replay()
        return replay


class Reader:
    """Stands for the model's kernels: keeps what it was given, and gives the token ids back."""

    def __init__(self) -> None:
        self.seen: dict[str, list[int] | list[list[int]]] = {}

    def __call__(self, step: Step) -> torch.Tensor:
        """The rows' token ids as hidden states of size 1."""
        assert step.chunks is not None
        self.seen = {
            "singles": step.decode_positions.tolist(),
            "positions": step.positions.tolist(),
            "pieces": [piece for piece in step.chunks.tolist() if piece[1]],
            "tokens": [step.longest_chunk],
        }
        return step.fields[0].float()[:, None]


def graphs_of(reader: Reader) -> ChunkGraphs:
    tables = torch.zeros((SEQUENCES, 200), dtype=torch.int32)
    chosen = torch.zeros(SEQUENCES, dtype=torch.int32)
    graphs = ChunkGraphs(Capturing(), reader, tables, chosen, hidden_size=1, kind=torch.float32)
    graphs.capture()
    return graphs


def part(key: int, token_ids: list[int], start: int) -> SequenceSlice:
    return SequenceSlice(key, token_ids, start, list(range(200)), len(token_ids) - 1)


def test_token_counts_that_are_captured():
    sizes = buckets(MOST_TOKENS)
    assert sizes[:5] == (16, 32, 64, 96, 128)
    assert sizes[-1] == MOST_TOKENS
    assert all(after - before <= max(32, before // 4) for before, after in pairwise(sizes))


def test_a_chunk_is_cut_into_pieces_that_attend_to_the_ones_before():
    chunks = (Chunk(first=3, count=PIECE + 2, start=40, row=5), Chunk(133, 7, 0, 1))
    assert list(pieces(chunks)) == [
        (3, PIECE, 40, 5),
        (3 + PIECE, 2, 40 + PIECE, 5),
        (133, 7, 0, 1),
    ]


def test_decoded_rows_chunks_and_padding():
    reader = Reader()
    graphs = graphs_of(reader)
    batch = Batch([part(0, [11, 12, 13], 5), part(1, [21], 90), part(2, [31], 7)])
    hidden = graphs.run(pack(batch, [4, 2, 3]))
    assert hidden is not None
    assert hidden[:, 0].tolist() == [21, 31, 11, 12, 13]
    assert reader.seen["singles"] == [90, 7, *[PADDING] * (SEQUENCES - 2)]
    assert reader.seen["positions"] == [90, 7, 5, 6, 7, *[PADDING] * 11]
    assert reader.seen["pieces"] == [[2, 3, 5, 4]]


def test_blocks_behind_a_window_are_not_sent_again():
    sent: list[tuple[str, int, list[int]]] = []
    tables = BlockTables(
        2,
        lambda row, blocks: sent.append(("all", row, list(blocks))),
        lambda row, blocks: sent.append(("windows", row, list(blocks))),
        window=20,
    )

    def step(start: int, count: int, windows: list[int]) -> None:
        blocks = list(range(len(windows)))
        tables.row_of(SequenceSlice(7, [1] * count, start, blocks, 0, window_table=windows))

    step(48, 2, [30, 31, 32, 33])  # a prefix of three blocks that another sequence has computed
    assert sent == [("all", 0, [0, 1, 2, 3]), ("windows", 0, [30, 31, 32, 33])]
    sent.clear()
    step(50, 1, [31, 31, 32, 33])  # the first has gone
    step(51, 30, [31, 31, 32, 33, 34, 35])
    step(81, 1, [33, 33, 33, 33, 34, 35])
    assert sent == []
    step(82, 1, [33, 33, 33, 33, 40, 35])  # in the window
    assert sent == [("windows", 0, [33, 33, 33, 33, 40, 35])]


def test_a_step_writes_its_blocks_of_layers_that_slide():
    fields = torch.zeros((FIELDS, 4), dtype=torch.int32)
    fields[1] = torch.tensor([17, 3, PADDING, PADDING])
    fields[2], fields[5] = torch.tensor([1, 0, 0, 0]), torch.tensor([5, 6, 0, 0])
    tables, windows = torch.full((2, 4), -1), torch.full((2, 5), -1, dtype=torch.int32)
    step = with_windows(Step(fields, torch.zeros(2), tables, 4), windows)
    assert step.tables_of(apart=False) is tables
    assert step.tables_of(apart=True) is windows
    assert windows.tolist() == [[6, -1, -1, -1, 0], [-1, 5, -1, -1, -1]]  # the last is for padding


def test_nothing_is_left_of_a_larger_step_before():
    reader = Reader()
    graphs = graphs_of(reader)
    graphs.run(pack(Batch([part(key, [1] * 2, 0) for key in range(SEQUENCES)]), range(SEQUENCES)))
    assert len(reader.seen["pieces"]) == SEQUENCES
    graphs.run(pack(Batch([part(0, [1, 2], 8)]), [3]))
    assert reader.seen["pieces"] == [[0, 2, 8, 3]]
    assert reader.seen["singles"] == [PADDING] * SEQUENCES


@pytest.mark.parametrize("tokens", [PIECE * 3 + 1, MOST_TOKENS])
def test_long_chunks_beside_single_tokens(tokens: int):
    reader = Reader()
    graphs = graphs_of(reader)
    count = tokens - SEQUENCES + 1
    batch = Batch([part(0, [1] * count, 0), *(part(key, [2], 9) for key in range(1, SEQUENCES))])
    assert graphs.run(pack(batch, range(SEQUENCES))) is not None
    assert sum(piece[1] for piece in reader.seen["pieces"] if isinstance(piece, list)) == count
    assert reader.seen["tokens"] == [PIECE]


def test_a_step_that_is_too_large_or_was_not_captured_is_run_otherwise():
    reader = Reader()
    graphs = graphs_of(reader)
    assert graphs.run(pack(Batch([part(0, [1] * (MOST_TOKENS + 1), 0)]), [0])) is None
    tables, chosen = torch.zeros((2, 9), dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    fresh = ChunkGraphs(Capturing(), reader, tables, chosen, hidden_size=1, kind=torch.float32)
    assert fresh.run(pack(Batch([part(0, [1, 2], 0)]), [0])) is None


def test_decoded_rows_between_two_sizes_are_padded():
    tables, chosen = torch.zeros((20, 9), dtype=torch.int32), torch.zeros(20, dtype=torch.int32)
    seen: list[list[int]] = []

    def compute(step: Step) -> torch.Tensor:
        seen.append(step.positions.tolist())
        return step.fields[0].float()[:, None]

    graphs = DecodeGraphs(Capturing(), compute, tables, chosen, 1)
    graphs.capture()
    for count in (12, 9):
        packed = pack(Batch([part(key, [key + 30], key) for key in range(count)]), range(count))
        assert graphs.run(packed.fields)[:, 0].tolist() == list(range(30, 30 + count))
        assert seen[-1] == [*range(count), *[PADDING] * (16 - count)]
