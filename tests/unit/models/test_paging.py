from __future__ import annotations

from penstock.engine.model import Batch, SequenceSlice
from penstock.models.backends.paging import Step


def test_slices_lie_one_after_another() -> None:
    step = Step.of(
        Batch(
            (
                SequenceSlice(1, [5, 6, 7], 31, [4, 9, 8], 1),
                SequenceSlice(2, [8], 0, [3], 0),
                SequenceSlice(3, [1, 2], 0, [6], 2),
            )
        ),
        32,
    )

    assert step.token_ids.tolist() == [5, 6, 7, 8, 1, 2]
    assert step.positions.tolist() == [31, 32, 33, 0, 0, 1]
    assert step.rows.tolist() == [1, 2, 3]
    paging = {name: array.tolist() for name, array in step.paging.items()}
    assert paging == {
        "past_lens": [31, 0, 0],
        "subsequence_begins": [0, 3, 4, 6],
        "block_indices": [4, 9, 3, 6],  # block 8 holds nothing yet
        "block_indices_begins": [0, 2, 3, 4],
        "max_context_len": 34,
    }


def test_a_full_block_needs_no_other() -> None:
    step = Step.of(Batch((SequenceSlice(1, [5], 31, [4, 9], 0),)), 32)
    assert step.paging["block_indices"].tolist() == [4]
