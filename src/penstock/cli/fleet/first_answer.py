"""One chat completion through the OpenAI SDK, printed as it streams."""

from __future__ import annotations

import importlib.util
import time
from typing import TYPE_CHECKING

from rich.markup import escape

from penstock.cli.console import err, out
from penstock.errors import JobFailed, StartupError

if TYPE_CHECKING:
    from openai import Stream
    from openai.types.chat import ChatCompletionChunk

MAX_TOKENS = 200


def ask(url: str, key: str, model: str, prompt: str) -> None:
    """Ask `model` at `url` (without `/v1`) and stream its answer to stdout.

    :raises StartupError: the OpenAI SDK is not installed.
    :raises JobFailed: the API answered with an error, or the stream ended early.
    """
    if importlib.util.find_spec("openai") is None:
        raise StartupError("the OpenAI SDK is not installed: pip install 'penstock[client]'")
    import openai  # noqa: PLC0415 - half a second that other commands need not wait

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=2)
    err.print(f"\n[bold]{model}[/] is asked: {escape(prompt)}")
    try:
        client.models.list()  # connect and load the SDK first, so that only the model is timed
        began = time.perf_counter()
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=MAX_TOKENS,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        first_s, tokens = _print_stream(stream, began)
    except openai.OpenAIError as error:
        raise JobFailed(f"the first chat completion failed: {error}") from error
    finally:
        client.close()
    took_s = time.perf_counter() - began
    rate = tokens / took_s  # over the whole time: pieces may have arrived while we slept
    err.print(f"[dim]{tokens} tokens, the first after {first_s:.2f} s, {rate:.0f} tokens/s[/]")


def _print_stream(stream: Stream[ChatCompletionChunk], began: float) -> tuple[float, int]:
    """Print the pieces; return (seconds until the first piece, tokens in all)."""
    first_s, tokens = 0.0, 0
    for chunk in stream:
        if chunk.usage is not None:
            tokens = chunk.usage.completion_tokens
        for choice in chunk.choices:
            if piece := choice.delta.content:
                first_s = first_s or time.perf_counter() - began
                out.file.write(piece)
                out.file.flush()
    out.file.write("\n")
    out.file.flush()
    return first_s, tokens
