from __future__ import annotations

import asyncio

import pytest
import typer

from penstock.cli.bench.command import _drive, _span
from penstock.cli.bench.load import Sample, _read_frame, run
from penstock.cli.bench.report import percentiles, summarise
from penstock.cli.bench.shapes import bodies
from penstock.cli.bench.workload import Load, Span
from penstock.errors import JobFailed


def sample(
    due: float, pieces: list[float], *, tokens: int | None = None, error: str = ""
) -> Sample:
    return Sample(
        due_at=due,
        sent_at=due + 0.002,
        ended_at=pieces[-1] if pieces else due + 1,
        pieces_at=pieces,
        prompt_tokens=7,
        completion_tokens=len(pieces) if tokens is None else tokens,
        error=error,
    )


def test_percentiles_interpolate() -> None:
    seen = percentiles([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (seen.p50, seen.max) == (3.0, 5.0)
    assert seen.p90 == pytest.approx(4.6)
    assert percentiles([]).p99 == 0.0


def test_summary_counts_from_when_a_request_was_due() -> None:
    report = summarise([sample(0.0, [0.5, 0.6, 0.7]), sample(1.0, [1.1, 1.3])])
    assert report.completed == report.requests == 2
    assert report.wall_s == pytest.approx(1.3)
    assert report.output_tokens == 5
    assert report.output_tokens_per_s == pytest.approx(5 / 1.3)
    assert report.ttft_ms.max == pytest.approx(500)
    assert report.itl_ms.max == pytest.approx(200)
    assert report.late_ms.p50 == pytest.approx(2)
    assert report.stream_tokens_per_s.max == pytest.approx(10)


def test_failed_requests_count_as_errors_and_give_no_tokens() -> None:
    broken = sample(0.0, [0.2, 0.3], error="stream broke off")
    report = summarise([broken, sample(0.0, [0.1]), sample(0.0, [], error="HTTP 429")])
    assert report.errors == {"stream broke off": 1, "HTTP 429": 1}
    assert report.completed == 1
    assert report.output_tokens == 1
    assert report.ttft_ms.max == pytest.approx(100)


def test_frames_fill_a_sample() -> None:
    one = Sample(due_at=0.0)
    _read_frame({"choices": [{"delta": {"role": "assistant"}}]}, one)
    assert one.pieces_at == []
    _read_frame({"choices": [{"delta": {"content": "hi"}}], "usage": None}, one)
    _read_frame({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}, one)
    assert len(one.pieces_at) == 1
    assert (one.prompt_tokens, one.completion_tokens) == (3, 2)
    _read_frame({"error": {"code": "deadline_exceeded"}}, one)
    assert one.error == "deadline_exceeded"


def test_the_same_seed_sends_the_same_requests() -> None:
    load = Load("http://x", "k", "m", 5, 1.0, 1.0, None, Span(1, 9), Span(2, 8), seed=3)
    assert list(bodies(load)) == list(bodies(load))
    for body in bodies(load):
        assert 1 <= len(body["messages"][0]["content"].split()) <= 9
        assert 2 <= body["max_tokens"] <= 8


def test_a_run_in_which_no_request_is_due() -> None:
    load = Load("http://x", "k", "m", 5, 0.001, 0.001, None, Span(1, 9), Span(2, 8), seed=3)
    with pytest.raises(JobFailed, match="no request was due within"):
        _drive(load)


def test_spans() -> None:
    assert _span("5") == Span(5, 5)
    assert _span("5:9") == Span(5, 9)
    for bad in ("", "a", "9:5", "0", "1:2:3"):
        with pytest.raises(typer.BadParameter):
            _span(bad)


STREAM = (
    b": keep-alive\r\n\r\n"
    b'id: 1\r\ndata: {"choices": [{"delta": {"content": "a"}}]}\r\n\r\n'
    b'data: {"choices": [{"delta":\ndata: {"content": "b"}}]}\n\n'
    b'data:{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\n'
)


async def sample_of(
    body: bytes, content_type: str = "text/event-stream", status: str = "200 OK"
) -> Sample:
    """Send one request to a server that answers it with these bytes, then closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        load = Load(f"http://127.0.0.1:{port}", "k", "m", 1, 9.0, None, 1, Span(1, 1), Span(1, 1))
        (one,) = await run(load, lambda _sample: None)
    return one


async def test_streams_are_read_as_server_sent_events() -> None:
    whole = await sample_of(STREAM + b"data: [DONE]\n\n")
    assert (whole.error, len(whole.pieces_at)) == ("", 2)
    assert (whole.prompt_tokens, whole.completion_tokens) == (3, 2)
    assert (await sample_of(STREAM)).error == "stream broke off"
    assert (await sample_of(b"<html>", "text/html")).error == "SSEError"
    for wrong in (b"{", b"[]", b'{"choices": [{}]}', b'{"usage": 3}'):
        one = await sample_of(b"data: " + wrong + b"\n\n")
        assert one.error == "no frame of a chat completion"


async def test_an_error_is_counted_by_its_code() -> None:
    body = b'{"error": {"code": "context_length_exceeded", "message": "too long"}}'
    one = await sample_of(body, "application/json", "400 Bad")
    assert one.error == "HTTP 400 context_length_exceeded"
