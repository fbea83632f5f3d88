"""Requests for a model of FastChat's workers, passed on to one of them."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Final, cast

import httpx
import msgspec

from api.fastchat import peer_http
from api.fastchat.errors import ErrorCode, Refusal, error_object
from api.fastchat.peer_http import ANSWER_BYTES, CONNECT_S, SMALL_ANSWER_BYTES
from api.fastchat.rendering import render
from api.fastchat.wire import END, STREAM_PATH
from penstock.contract.events import Finished, FinishReason, Tokens, Usage
from penstock.contract.job import ChatPrompt, TextPrompt
from penstock.errors import (
    DeadlineExceeded,
    EngineFailed,
    NoWorker,
    UnknownModel,
    UnsupportedFeature,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from api.fastchat.peers import Peers
    from penstock.contract.job import Generate, Job, Sampling
    from penstock.transport.fleet.fastchat_workers import PeerCard

AGAIN_S: Final = 0.1
REASONS: Final = {"length": FinishReason.LENGTH}
"""FastChat ends for any other reason with `stop`."""
MOST_TOKENS: Final = 10**8
"""Of a prompt or an answer, as a worker counts them."""


async def post(
    peers: Peers,
    path: str,
    model: str,
    body: object,
    timeout_s: float,
    *,
    most_bytes: int = ANSWER_BYTES,
) -> dict[str, Any]:
    """Return the answer, an object, of a model's worker to a call that is not streamed.

    :raises NoWorker, UnknownModel: none is left that answers.
    :raises Refusal: it took too long.
    """
    tried: set[str] = set()
    while True:
        peer = _pick(peers, model, tried)
        try:
            answer = await peer_http.call(
                peers.http,
                f"{peer.url}{path}",
                body,
                total_s=timeout_s,
                most_bytes=most_bytes,
            )
            if not isinstance(answer, dict):
                raise ValueError("the answer is no object")  # noqa: TRY004, TRY301 - caught below
            return cast("dict[str, Any]", answer)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            await _passed_over(peers, peer, tried)
        except httpx.TimeoutException as error:
            raise _too_slow(peer) from error
        except (httpx.HTTPError, ValueError) as error:
            raise EngineFailed(f"{peer.url} failed: {error}") from error


def _pick(peers: Peers, model: str, tried: set[str]) -> PeerCard:
    try:
        peer = peers.pick(model, without=frozenset(tried))
    except UnknownModel:
        if tried:
            raise NoWorker(f"no worker of {model!r} answers") from None
        raise
    tried.add(peer.url)
    return peer


async def _passed_over(peers: Peers, peer: PeerCard, tried: set[str]) -> None:
    """Drop a worker that refuses the connection, or retry one that has just joined."""
    if not await peers.lost(peer.url):
        tried.discard(peer.url)
        await asyncio.sleep(AGAIN_S)


def _too_slow(peer: PeerCard) -> Refusal:
    error = DeadlineExceeded(f"{peer.url} has been silent for too long")
    return Refusal(error, ErrorCode.CONTROLLER_WORKER_TIMEOUT)


async def objects(
    peers: Peers, model: str, body: object, tick_s: float
) -> AsyncGenerator[bytes | None, None]:
    """Yield each object of a model's stream, without its end; None when silent for `tick_s`.

    If a worker refuses the connection it is dropped and the next one is tried. If it breaks off,
    nothing is retried: no other worker can continue its answer.

    :raises NoWorker, UnknownModel: none is left that answers.
    :raises EngineFailed: it broke off, or does not speak FastChat's protocol.
    :raises Refusal: it was silent for too long.
    """
    silence_s = peers.settings.fastchat_worker_timeout_s
    tried: set[str] = set()
    while True:
        peer = _pick(peers, model, tried)
        source = peer_http.split(
            peers.http,
            f"{peer.url}{STREAM_PATH}",
            body,
            silence_s=silence_s,
            total_s=peers.settings.deadline_s,
            end=END,
        )
        try:
            async with aclosing(_ticking(source, tick_s)) as stream:
                async for content in stream:
                    yield content
        except (httpx.ConnectError, httpx.ConnectTimeout):
            await _passed_over(peers, peer, tried)
        except httpx.TimeoutException as error:
            raise _too_slow(peer) from error
        except httpx.HTTPError as error:
            raise EngineFailed(f"{peer.url} broke off: {error}") from error
        else:
            return


async def _ticking(
    source: AsyncGenerator[bytes, None], tick_s: float
) -> AsyncGenerator[bytes | None, None]:
    """Yield what `source` does, and None each time that it is silent for `tick_s`."""
    pending: asyncio.Future[bytes] | None = None
    try:
        while True:
            if pending is None:
                pending = asyncio.ensure_future(anext(source))
            done, _ = await asyncio.wait({pending}, timeout=tick_s)
            if not done:
                yield None
                continue
            finished, pending = pending, None
            try:
                yield finished.result()
            except StopAsyncIteration:
                return
    finally:
        if pending is not None:
            pending.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration, httpx.HTTPError):
                await pending
        await source.aclose()


async def frames(
    peers: Peers, model: str, body: object, tick_s: float
) -> AsyncGenerator[bytes, None]:
    """Yield a model's stream as its worker sends it, with our keep-alives.

    :raises PenstockError: as `objects`.
    """
    answered = False
    try:
        async with aclosing(objects(peers, model, body, tick_s)) as stream:
            async for content in stream:
                answered = answered or content is not None
                yield END if content is None else content + END
        if not answered:
            raise EngineFailed("the worker sent nothing")
    except Refusal as refusal:  # its code is more specific than the error's class
        yield msgspec.json.encode(error_object(refusal)) + END


class _Cumulative(msgspec.Struct):
    text: str = ""
    error_code: int = 0
    usage: dict[str, int] | None = None
    finish_reason: str | None = None


_decoder = msgspec.json.Decoder(_Cumulative)


async def follow(
    peers: Peers, job: Job, images: Mapping[str, bytes], tick_s: float
) -> AsyncGenerator[Tokens | Finished | None, None]:
    """Yield a job's events as one of our workers would send them; `images` are by their digests.

    :raises PenstockError: as `objects`, or the error that the worker answered with.
    """
    body = {"model": job.model, **await _body(peers, job, images)}
    text, index, last = "", 0, _Cumulative()
    try:
        async with aclosing(objects(peers, job.model, body, tick_s)) as stream:
            async for content in stream:
                if content is None:
                    yield None
                    continue
                last = _decoder.decode(content)
                if last.error_code:
                    raise EngineFailed(f"FastChat's worker: {last.text} ({last.error_code})")
                # Half a character at the end comes again, complete.
                shown = last.text if last.finish_reason else last.text.rstrip("\ufffd")
                if len(shown) > len(text):
                    yield Tokens(job.id, index, (0,), shown[len(text) :])
                    text, index = shown, index + 1
    except Refusal as refusal:
        raise refusal.error from refusal
    except (msgspec.MsgspecError, RecursionError) as error:
        raise EngineFailed(f"FastChat's worker does not speak its protocol: {error}") from error
    counts = last.usage or {}
    usage = Usage(
        _counted(counts.get("prompt_tokens", 0)), _counted(counts.get("completion_tokens", index))
    )
    reason = REASONS.get(last.finish_reason or "", FinishReason.STOP)
    yield Finished(job.id, index, reason, usage)


def _counted(tokens: int) -> int:
    """Return a worker's count within its bounds: usage is summed up."""
    return min(max(tokens, 0), MOST_TOKENS)


async def _body(peers: Peers, job: Job, images: Mapping[str, bytes]) -> dict[str, Any]:
    """Return FastChat's generation request for a job.

    :raises UnsupportedFeature: FastChat's workers cannot do what the job needs.
    """
    work = job.work
    stops: list[str] = list(work.sampling.stop)
    stop_token_ids = list(work.sampling.stop_token_ids)
    digests: tuple[str, ...] = ()
    match work.prompt:
        case TextPrompt(text):
            prompt = text
        case ChatPrompt():
            answer = await post(
                peers,
                "/worker_get_conv_template",
                job.model,
                {"model": job.model},
                CONNECT_S,
                most_bytes=SMALL_ANSWER_BYTES,
            )
            conversation = render(answer.get("conv"), work.prompt)
            prompt, digests = conversation.prompt, conversation.images
            stops += conversation.stop
            stop_token_ids += conversation.stop_token_ids
        case _:
            raise UnsupportedFeature("FastChat's workers take no token ids", param="prompt")
    return {
        "prompt": prompt,
        "stop": stops,
        "stop_token_ids": stop_token_ids or None,
        "echo": work.echo,
        **({"images": [b64encode(images[one]).decode() for one in digests]} if digests else {}),
        **_sampling(work, peers.card(job.model)),
    }


def _sampling(work: Generate, card: Any) -> dict[str, Any]:
    sampling: Sampling = work.sampling
    unsupported = {
        "logprobs": sampling.logprobs is not None,
        "logit_bias": bool(sampling.logit_bias),
        "min_p": sampling.min_p > 0,
        "min_tokens": sampling.min_tokens > 0,
        "ignore_eos": sampling.ignore_eos,
    }
    for param, is_used in unsupported.items():
        if is_used:
            raise UnsupportedFeature(f"FastChat's workers know no {param}", param=param)
    room = card.context_length if card else 2048
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "max_new_tokens": sampling.max_tokens or room // 2,
    }
