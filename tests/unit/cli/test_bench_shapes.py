"""What `penstock bench` sends, and what it makes of the answers: goodput, comparisons, pages."""

from __future__ import annotations

import base64
import io
import json
import statistics
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import msgspec
import pytest
import typer
from PIL import Image

from penstock.cli.bench.command import _bounds
from penstock.cli.bench.load import Sample
from penstock.cli.bench.outcome import Outcome, show
from penstock.cli.bench.page import Side, page
from penstock.cli.bench.recognised import as_vllm
from penstock.cli.bench.report import Bounds, summarise, together
from penstock.cli.bench.shapes import AGENT_TURNS, SHAREGPT_ANSWER_TOKENS, bodies, sessions
from penstock.cli.bench.workload import Load, Span
from penstock.errors import BadRequest

if TYPE_CHECKING:
    from pathlib import Path

LOAD = Load("http://a", "secret", "m", 12, 9.0, 2.0, None, Span(3, 9), Span(2, 8), seed=3)


def sample(due: float, *pieces: float, error: str = "") -> Sample:
    return Sample(due, due, pieces[-1], [*pieces], 7, len(pieces), error)


def test_chats_have_the_published_mean_lengths() -> None:
    load = replace(LOAD, shape="sharegpt", requests=4000)
    sent = list(bodies(load))
    answers = [body["max_tokens"] for body in sent]
    words = [len(body["messages"][0]["content"].split()) for body in sent]
    # Cut at 1,024, as the benchmark that made these lengths common does: a little below the mean.
    assert 0.8 * SHAREGPT_ANSWER_TOKENS < statistics.fmean(answers) < SHAREGPT_ANSWER_TOKENS
    assert 130 < statistics.fmean(words) < 165
    assert max(answers) == 1024
    assert statistics.median(answers) < statistics.fmean(answers)


def test_images_are_pictures() -> None:
    (body,) = bodies(replace(LOAD, shape="images", requests=1))
    text, image = body["messages"][0]["content"]
    data = base64.b64decode(image["image_url"]["url"].partition(",")[2])
    assert Image.open(io.BytesIO(data)).size[0] in {336, 512, 768}
    assert 3 <= len(text["text"].split()) <= 9


def test_an_agents_turn_repeats_all_before_it() -> None:
    first, second = sessions(replace(LOAD, shape="agents", requests=2 * AGENT_TURNS))
    turns: list[list[Any]] = []
    while (body := first.next_body(f"answer {len(turns)}")) is not None:
        turns.append(body["messages"])
    assert len(turns) == AGENT_TURNS
    for before, after in pairwise(turns):
        assert after[: len(before)] == before
        assert [one["role"] for one in after[len(before) :]] == ["assistant", "user"]
    assert turns[1][2]["content"] == "answer 1"
    other = second.next_body("")
    assert other is not None
    assert other["messages"][0] == turns[0][0]
    assert other["messages"][1] != turns[0][1]


def test_conversations_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "chats.json"
    said = [{"from": "human", "value": "hello there"}, {"from": "gpt", "value": "x" * 40}]
    path.write_text(json.dumps([{"conversations": said}, {"conversations": said[:1]}]))
    sent = list(bodies(replace(LOAD, dataset=path)))
    assert {body["messages"][0]["content"] for body in sent} == {"hello there"}
    assert {body["max_tokens"] for body in sent} == {10}
    for wrong in ("[]", "{", '[{"conversations": 3}]', '["a"]'):
        path.write_text(wrong)
        with pytest.raises(BadRequest, match=r"chats\.json"):
            list(bodies(replace(LOAD, dataset=path)))


def test_goodput_counts_the_answers_within_all_bounds() -> None:
    samples = [
        sample(0.0, 0.1, 0.2, 0.3),
        sample(0.0, 0.1, 0.2, 0.5),  # a long pause
        sample(0.0, 0.6, 0.7, 0.8),  # a late first token
        sample(0.0, 0.1, 1.0, error="stream broke off"),
    ]
    assert summarise(samples, Bounds(ttft_ms=500, itl_ms=200)).goodput_per_s == pytest.approx(1.0)
    assert summarise(samples, Bounds(ttft_ms=500)).goodput_per_s == pytest.approx(2.0)
    assert summarise(samples, Bounds(tpot_ms=110)).goodput_per_s == pytest.approx(2.0)
    assert summarise(samples, Bounds(e2el_ms=400)).goodput_per_s == pytest.approx(1.0)
    assert summarise(samples).goodput_per_s is None


def test_bounds_are_read() -> None:
    assert _bounds(["ttft:500", "itl:50.5"]) == Bounds(ttft_ms=500, itl_ms=50.5)
    assert _bounds([]) is None
    for wrong in ("ttft", "ttft:", "ttft:-1", "ttft:nan", "speed:3"):
        with pytest.raises(typer.BadParameter):
            _bounds([wrong])


def test_runs_at_different_times_are_one_report() -> None:
    report = together([[sample(0.0, 0.5, 1.0)], [sample(100.0, 100.5, 101.0)]])
    assert report.wall_s == pytest.approx(2.0)
    assert report.requests_per_s == pytest.approx(1.0)


def test_a_result_has_the_names_of_vllms() -> None:
    result = as_vllm(LOAD, summarise([sample(0.0, 0.1, 0.2, 0.3)], Bounds(ttft_ms=500)))
    assert result["completed"] == 1
    assert result["median_ttft_ms"] == pytest.approx(100)
    assert result["mean_tpot_ms"] == pytest.approx(100)
    assert result["p99_itl_ms"] == pytest.approx(100)
    assert result["std_e2el_ms"] == 0
    assert result["total_token_throughput"] == pytest.approx(10 / 0.3)
    assert result["request_goodput"] == pytest.approx(1 / 0.3)


def side(name: str, *samples: Sample) -> Side:
    return Side(name, samples, summarise(samples, Bounds(ttft_ms=300)))


def test_a_page_has_both_servers_curves() -> None:
    text = page(
        "a <title>", [side("http://a", sample(0, 0.1, 0.2)), side("http://b", sample(0, 0.3, 0.9))]
    )
    assert "a &lt;title&gt;" in text
    assert text.count("<polyline") == 8
    for figure in text.split("<svg ")[1:]:
        ET.fromstring("<svg " + figure.partition("</svg>")[0] + "</svg>")


def test_two_servers_are_written_beside_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = [side("http://a", sample(0, 0.1, 0.2)), side("http://b", sample(0, 0.2, 0.4))]
    loads = [LOAD, replace(LOAD, url="http://b")]
    show(Outcome(loads, sides, tmp_path / "out.json", tmp_path / "out.html"))
    written = msgspec.json.decode((tmp_path / "out.json").read_bytes())
    assert written["report"]["ttft_ms"]["p50"] == pytest.approx(100)
    assert written["against"]["median_ttft_ms"] == pytest.approx(200)
    assert "secret" not in (tmp_path / "out.json").read_text()
    assert "median time to first token: 0.500" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "out.html").read_text()
