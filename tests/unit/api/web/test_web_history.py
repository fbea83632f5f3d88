"""Latencies in buckets: what a percentile read from them is worth."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.transport.fleet.history import (
    GROWTH,
    LARGEST_BUCKET,
    SMALLEST_S,
    History,
    bucket_of,
    percentile,
    seconds_of,
)


@given(st.floats(min_value=SMALLEST_S, max_value=1800))
def test_a_bucket_is_within_five_per_cent_of_what_it_holds(seconds: float):
    assert seconds_of(bucket_of(seconds)) == pytest.approx(seconds, rel=(GROWTH - 1) / 2 + 0.001)


def test_what_is_out_of_range_counts_at_its_ends():
    assert bucket_of(0.0) == bucket_of(-1.0) == 0
    assert bucket_of(1e9) == LARGEST_BUCKET


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_percentiles_of_a_thousand_latencies(share: float):
    draw = random.Random(7)
    seconds = sorted(draw.lognormvariate(-2, 1) for _ in range(1000))
    buckets = Counter(map(bucket_of, seconds))
    assert percentile(buckets, share) == pytest.approx(seconds[int(share * 1000) - 1], rel=0.06)


def test_no_latency_has_no_percentile():
    assert percentile({}, 0.5) is None


def test_what_is_taken_is_counted_once_and_what_is_given_back_again():
    history = History()
    history.add("tokens", "a-cpu", 3)
    history.add("tokens", "a-cpu", 0)
    history.observe("itl", "a-cpu", 0.05, 3)
    taken = history.take()
    assert taken == {"tokens::a-cpu": 3, f"itl:{bucket_of(0.05)}:a-cpu": 3}
    assert history.take() == {}
    history.add("tokens", "a-cpu", 2)
    history.give_back(taken)
    assert history.take()["tokens::a-cpu"] == 5
