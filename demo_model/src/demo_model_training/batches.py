"""Training batches: rows of token ids, made by worker processes in an order fixed by the seed."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from demo_model_training.dialogue import END_OF_TEXT, IM_END, IM_START
from demo_model_training.generate import ROW_LENGTHS, write_row

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

Ids = npt.NDArray[np.uint16]
Mask = npt.NDArray[np.bool_]

_worker: dict[str, Any] = {}


def _start(tokenizer_path: str) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker["tokenizer"] = Tokenizer.from_file(tokenizer_path)


def spoken_by_assistant(ids: Ids, start: int, assistant: int, end: int, padding: int) -> Mask:
    """True for the tokens that the assistant makes, its end marker included. ids: (rows, T).

    A row without chat markers is plain text: all of it counts, its end too.
    """
    mask = np.zeros(ids.shape, dtype=bool)
    for row, said in zip(ids, mask, strict=True):
        if row[0] != start:
            said[1 : 1 + np.flatnonzero(row == padding)[0]] = True
            continue
        ends = np.flatnonzero(row == end)
        headers = np.flatnonzero((row[:-2] == start) & (row[1:-1] == assistant))
        for header in headers:
            last = ends[np.searchsorted(ends, header)]
            said[header + 3 : last + 1] = True  # behind "<|im_start|>assistant\n"
    return mask


def make_batch(job: tuple[int, int, int]) -> tuple[Ids, Mask]:
    """Batch number `index` of the run with this seed: `tokens` tokens in rows of one length."""
    seed, index, tokens = job
    tokenizer: Tokenizer = _worker["tokenizer"]
    rng = random.Random(f"{seed}/{index}")
    length = rng.choices(tuple(ROW_LENGTHS), tuple(ROW_LENGTHS.values()))[0]
    ids = np.full((max(1, tokens // length), length), tokenizer.token_to_id(END_OF_TEXT), np.uint16)

    def encode(text: str) -> Encoding:
        return tokenizer.encode(text, add_special_tokens=False)

    given = np.zeros(ids.shape, dtype=bool)
    for row, given_row in zip(ids, given, strict=True):
        written, is_given = write_row(rng, encode, length)
        row[: len(written)] = written
        given_row[: len(written)] = is_given
    marks: list[Any] = [
        tokenizer.token_to_id(t) for t in (IM_START, "assistant", IM_END, END_OF_TEXT)
    ]
    return ids, spoken_by_assistant(ids, *marks) & ~given


def twice(
    batches: Generator[tuple[Ids, Mask], None, None], between: int = 1500
) -> Generator[tuple[Ids, Mask], None, None]:
    """Each batch, and again about twice `between` batches later: where the text is made too slowly."""
    seen: deque[tuple[Ids, Mask]] = deque()
    try:
        for batch in batches:
            yield batch
            seen.append(batch)
            if len(seen) > between:
                yield seen.popleft()
    finally:
        batches.close()


def stream(
    folder: Path, seed: int, tokens: int, workers: int, ahead: int = 400
) -> Generator[tuple[Ids, Mask], None, None]:
    """Batches without end, in order; at most `ahead` are kept waiting."""
    path = str(folder / "tokenizer.json")
    if workers == 0:
        _start(path)
        index = 0
        while True:
            yield make_batch((seed, index, tokens))
            index += 1
    # Spawn: the parent has CUDA and threads, which a fork would break.
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _start, (path,)) as pool:
        waiting = [pool.apply_async(make_batch, ((seed, i, tokens),)) for i in range(ahead)]
        index = 0
        while True:
            yield waiting[index % ahead].get()
            waiting[index % ahead] = pool.apply_async(make_batch, ((seed, index + ahead, tokens),))
            index += 1
