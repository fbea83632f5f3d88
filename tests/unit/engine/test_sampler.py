from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as reference

from penstock.contract.job import Sampling
from penstock.engine.sampling import filters
from penstock.engine.sampling.counter_random import uniform
from penstock.engine.sampling.filters import _candidates_by_bins, draw_filtered
from penstock.engine.sampling.logits_edits import LogitsEdits
from penstock.engine.sampling.multinomial import draw
from penstock.engine.sampling.sampler import Choice, Sampler

VOCABULARIES = (37, 5_000, 32_000)

FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_k": 40, "temperature": 1.7},
    {"top_p": 0.3},
    {"top_p": 0.95, "temperature": 0.5},
    {"top_p": 0.97, "temperature": 3.0},  # hardly anything is cut off
    {"min_p": 0.05},
    {"top_k": 50, "top_p": 0.8, "min_p": 0.02, "temperature": 0.9},
    {"top_k": 3_000, "top_p": 0.9},
    {"top_k": 1_000_000},
)


def sampler() -> Sampler:
    return Sampler(str, lambda token_id: str(token_id).encode())


def choice(seed: int = 1, position: int = 0, **kwargs: Any) -> Choice:
    return Choice(Sampling(seed=seed, **kwargs), None, position=position)


def expected_probabilities(logits: torch.Tensor, sampling: dict[str, Any]) -> torch.Tensor:
    """The distribution of Transformers' own warpers, in the order of its generate."""
    scores: Any
    ids: Any
    scores, ids = logits.double()[None], torch.zeros((1, 1), dtype=torch.int64)
    scores = reference.TemperatureLogitsWarper(sampling.get("temperature", 1.0))(ids, scores)
    if "top_k" in sampling:
        top_k = min(sampling["top_k"], logits.shape[0])
        scores = reference.TopKLogitsWarper(top_k)(ids, scores)
    if "top_p" in sampling:
        scores = reference.TopPLogitsWarper(sampling["top_p"])(ids, scores)
    if "min_p" in sampling:
        scores = reference.MinPLogitsWarper(sampling["min_p"])(ids, scores)
    return scores.softmax(-1)[0]


class Evenly:
    """Numbers that walk the unit interval in place of random ones."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, seed: int, position: int) -> float:
        return (position + 0.5) / self.count


@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("sampling", FILTERS, ids=str)
def test_distribution_is_that_of_transformers(
    vocab: int, sampling: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(vocab)) * 3
    count = 600
    monkeypatch.setattr("penstock.engine.sampling.sampler.uniform", Evenly(count))
    choices = [choice(position=position, **sampling) for position in range(count)]
    drawn = sampler().sample(logits.repeat(count, 1), choices).token_ids
    expected = expected_probabilities(logits, sampling)
    # Evenly spread numbers walk the inverse CDF, so each lies within its token's part of it.
    ends = expected.cumsum(0)
    for position, token_id in enumerate(drawn):
        number = (position + 0.5) / count
        assert token_id is not None
        assert expected[token_id] > 0
        assert ends[token_id] - expected[token_id] - 1e-5 <= number <= ends[token_id] + 1e-5


@pytest.mark.parametrize("sampling", FILTERS[2:], ids=str)
def test_a_gpus_way_draws_the_same(sampling: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    logits = torch.randn((40, 9_000), generator=torch.Generator().manual_seed(8)) * 2
    logits[:20] = logits[:20].round()  # many ties
    choices = [choice(seed=row, **sampling) for row in range(len(logits))]
    here = sampler().sample(logits.clone(), choices).token_ids
    monkeypatch.setattr(filters, "_candidates", filters._candidates_by_rank)
    assert sampler().sample(logits.clone(), choices).token_ids == here


def test_a_tie_at_the_border_stays_whole():
    logits = torch.tensor([0.0, 5.0, 1.0, 1.0, 1.0, -3.0]).repeat(200, 1)
    choices = [choice(seed=seed, top_k=2, temperature=5.0) for seed in range(200)]
    assert set(sampler().sample(logits, choices).token_ids) == {1, 2, 3, 4}


def test_a_flat_row_is_looked_at_as_a_whole():
    flat = torch.zeros(1, 10_000)
    tokens = draw_filtered(flat, [Sampling(seed=0, top_p=0.5)], [0.9999])
    assert tokens == [9_999]  # all tie, so all stay


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("possible", [0, 3, 255, 256, 299])
def test_impossible_tokens_are_never_drawn(number: float, possible: int):
    scaled = torch.full((1, 300), -math.inf)
    scaled[0, possible] = 0.0
    assert draw_filtered(scaled, [Sampling(seed=0, top_p=0.9)], [number]) == [possible]
    assert draw(scaled, torch.tensor([[number]], dtype=torch.float64)) == [possible]


def test_candidates_are_complete_above_their_bound():
    rows = torch.randn(5, 20_001, generator=torch.Generator().manual_seed(3))
    for row, (values, ids, bound) in zip(rows, _candidates_by_bins(rows, 128), strict=True):
        assert 128 <= len(ids) < 3_000
        assert ids.tolist() == torch.nonzero(row >= bound).flatten().tolist()
        assert np.array_equal(values, row[torch.from_numpy(ids)].numpy())


def test_draws_follow_the_distribution():
    """Chi-square of 20,000 draws over 8 tokens: 7 degrees of freedom, p = 0.0001."""
    probabilities = torch.tensor([0.4, 0.2, 0.15, 0.1, 0.08, 0.04, 0.02, 0.01])
    draws = 20_000
    for cut in ({}, {"top_k": 8}):
        choices = [choice(seed=9, position=position, **cut) for position in range(draws)]
        drawn = sampler().sample(probabilities.log().repeat(draws, 1), choices).token_ids
        observed = np.bincount(cast("list[int]", drawn), minlength=8)
        expected = probabilities.numpy() * draws
        assert ((observed - expected) ** 2 / expected).sum() < 29.9


def test_uniform_numbers_are_uniform_and_unrelated():
    numbers = np.array([[uniform(seed, position) for position in range(300)] for seed in range(60)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=50, range=(0, 1))
    expected = numbers.size / 50
    assert ((counts - expected) ** 2 / expected).sum() < 95  # 49 degrees, p = 0.0001
    by_seed = np.corrcoef(numbers) - np.eye(60)
    assert np.abs(by_seed).max() < 0.3
    after = np.corrcoef(numbers[:, :-1].ravel(), numbers[:, 1:].ravel())[0, 1]
    assert abs(after) < 0.05
    assert len(np.unique(numbers)) == numbers.size
    assert uniform(-1, 0) != uniform(1, 0)
    assert 0 <= uniform(1 << 80, 1 << 40) < 1


def test_a_row_does_not_depend_on_the_batch():
    vocab, rows = 4_099, 64
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn((rows, vocab), generator=generator) * 2
    kinds = [dict(kind, logprobs=row % 3 or None) for row, kind in enumerate(FILTERS)]
    kinds.append({"temperature": 0.0, "logprobs": 4})
    choices = [choice(seed=row, position=row * 7, **kinds[row % len(kinds)]) for row in range(rows)]
    together = sampler().sample(logits.clone(), choices)
    order = torch.randperm(rows, generator=generator).tolist()
    for part in (order[:10], order[10:]):
        chosen = sampler().sample(logits[part], [choices[row] for row in part])
        assert chosen.token_ids == [together.token_ids[row] for row in part]
    for row in range(rows):
        alone = sampler().sample(logits[row : row + 1].clone(), [choices[row]])
        assert alone.token_ids == [together.token_ids[row]]
        assert alone.logprobs.get(0) == together.logprobs.get(row)


def test_greedy_takes_the_largest_and_a_temperature_near_zero_is_greedy():
    logits = torch.randn(3, 500)
    best = logits.argmax(1).tolist()
    choices = [choice(temperature=0.0), choice(temperature=1e-9), choice(top_k=1)]
    assert sampler().sample(logits, choices).token_ids == best


def test_rows_that_are_not_numbers_are_reported_and_harm_no_other():
    logits = torch.randn(4, 300)
    logits[1, 7], logits[2] = math.nan, -math.inf
    best = int(logits[0].argmax())
    choices = [choice(temperature=0.0), choice(), choice(top_p=0.5), choice(top_k=1)]
    chosen = sampler().sample(logits, choices).token_ids
    assert chosen == [best, None, None, int(logits[3].argmax())]


def edited(logits: torch.Tensor, sampling: Sampling, prompt: list[int], generated: list[int]):
    edits = LogitsEdits(sampling, prompt, (0, 1))
    for token_id in generated:
        edits.add(token_id)
    row = logits.clone()
    edits.apply(row, len(generated))
    return row


def test_repetition_penalty_is_that_of_transformers():
    logits, prompt, generated = torch.randn(400), [*range(5, 200), 7, 7], [3, 3, 9, 390]
    ids: Any = torch.tensor([prompt + generated])
    processor: Any = reference.RepetitionPenaltyLogitsProcessor(1.3)
    expected = processor(ids, logits[None].clone())[0]
    got = edited(logits, Sampling(seed=0, repetition_penalty=1.3), prompt, generated)
    torch.testing.assert_close(got, expected)


def test_presence_and_frequency_count_generated_tokens_only():
    logits = torch.zeros(10)
    sampling = Sampling(seed=0, presence_penalty=0.5, frequency_penalty=0.25)
    got = edited(logits, sampling, [4, 5], [2, 2, 2, 3])
    expected = torch.zeros(10)
    expected[2], expected[3] = -0.5 - 0.75, -0.5 - 0.25
    torch.testing.assert_close(got, expected)


def test_bias_and_min_tokens():
    sampling = Sampling(seed=0, logit_bias={3: 2.5, 4: -100.0}, min_tokens=2)
    early = edited(torch.zeros(6), sampling, [1], [5])
    assert early.tolist() == [-math.inf, -math.inf, 0, 2.5, -100, 0]
    late = edited(torch.zeros(6), sampling, [1], [5, 5])
    assert late.tolist() == [0, 0, 0, 2.5, -100, 0]


def test_logprobs_are_of_the_raw_logits():
    logits = torch.randn(2, 50)
    expected = logits.log_softmax(1)
    ban = int(logits[0].argmax())
    sampling = Sampling(seed=0, temperature=0.0, logit_bias={ban: -100.0}, logprobs=3)
    choices = [Choice(sampling, LogitsEdits(sampling, (), ())), choice(temperature=0.3, logprobs=0)]
    chosen = sampler().sample(logits.clone(), choices)
    first, second = chosen.logprobs[0], chosen.logprobs[1]
    assert chosen.token_ids[0] == int(expected[0].topk(2).indices[1])
    assert first.chosen.token_id == chosen.token_ids[0]
    assert [top.token_id for top in first.top] == expected[0].topk(3).indices.tolist()
    assert first.top[0].token_id == ban
    for told in (first.chosen, *first.top):
        assert told.logprob == pytest.approx(float(expected[0, told.token_id]), abs=1e-5)
        assert told.text == str(told.token_id)
    assert second.top == ()
    assert second.chosen.logprob == pytest.approx(
        float(expected[1, second.chosen.token_id]), abs=1e-5
    )


def test_impossible_tokens_have_a_finite_logprob():
    logits = torch.full((1, 5), -math.inf)
    logits[0, 2] = 0.0
    chosen = sampler().sample(logits, [choice(temperature=0.0, logprobs=5)])
    assert all(math.isfinite(top.logprob) for top in chosen.logprobs[0].top)


def test_a_prefill_chunk_without_logits_has_nothing_to_choose():
    assert sampler().sample(torch.empty(0, 10), []).token_ids == []
