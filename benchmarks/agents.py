r"""Coding agents' traffic: time to the first token by turn, and what share of tokens is computed again.

    python -m benchmarks.agents                      # the agents' demo model, a tenth of the lengths
    python -m benchmarks.agents --url http://host:8000 --model NAME --scale 1
    python -m benchmarks.agents --peer-url http://host:8080 --peer-model NAME   # llama-server

Public traces of coding agents have some 40 turns a session, prompts that grow to 140,000 tokens,
450 tokens an answer, and 96 % of the prompts' tokens in the prefix cache; two in five have
sub-agents, whose head (system text and tools) is the main agent's. A session here has that shape,
with texts of its own: head, task, then turn by turn an answer, a call and the tool's result. The
answer that the server gave is what is sent back. `again` are tokens of a prompt that were neither
cached nor new: the server had computed them before.

Without `--url` a fleet is started on this machine. A peer gets the same traffic after it, from a cold
cache. llama.cpp: `llama-server -m model.gguf --jinja -c 140000 -np 1`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openai import AsyncOpenAI

from benchmarks import conditions, processes
from benchmarks.agents_session import Shape, Turn, run_sessions
from penstock import demo_model

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

MODEL = f"bigdl-{demo_model.LONG_NAME}"
SHOWN = 8
"""Turns of the main agent in the table, at even distances, beside the first two and the last."""
PATIENCE_S = 1800.0


@contextmanager
def served(chosen: argparse.Namespace) -> Generator[str]:
    """Yield the address of the server: the given one, or a fleet with the agents' demo model."""
    if chosen.url:
        yield chosen.url.rstrip("/")
        return
    with tempfile.TemporaryDirectory() as models:
        demo_model.write_long(Path(models) / demo_model.LONG_NAME)
        slots = str(chosen.sessions + 1)
        with processes.running(PENSTOCK_MODELS_DIR=models, PENSTOCK_SLOTS=slots) as stack:
            stack.start_worker("workers", f"{MODEL}-cpu")
            yield stack.api_url


def measure(url: str, model: str, shape: Shape, chosen: argparse.Namespace) -> list[list[Turn]]:
    """Return the turns of each session on a server."""

    async def run() -> list[list[Turn]]:
        async with AsyncOpenAI(
            base_url=f"{url}/v1", api_key=chosen.key, timeout=PATIENCE_S, max_retries=0
        ) as client:
            return await run_sessions(client, model, shape, chosen.sessions, chosen.seed)

    return asyncio.run(run())


def summary(sessions: Sequence[Sequence[Turn]]) -> dict[str, Any]:
    """Return the figures of all turns together."""
    turns = [turn for session in sessions for turn in session]
    prompt = sum(turn.prompt_tokens for turn in turns)
    later = [turn.ttft_s for turn in turns if turn.number]
    return {
        "turns": len(turns),
        "prompt_tokens": prompt,
        "cached_share": sum(turn.cached_tokens for turn in turns) / prompt,
        "again_share": sum(turn.again_tokens for turn in turns) / prompt,
        "new_share": sum(turn.new_tokens for turn in turns) / prompt,
        "answer_tokens": sum(turn.answer_tokens for turn in turns),
        "first_ttft_s": statistics.median(session[0].ttft_s for session in sessions),
        "later_ttft_p50_s": statistics.median(later),
        "later_ttft_max_s": max(later),
        "took_s": max(sum(turn.took_s for turn in session) for session in sessions),
    }


def show(name: str, sessions: Sequence[Sequence[Turn]]) -> dict[str, Any]:
    """Print a server's turns, medians over the sessions, and return its summary."""
    print(f"\n{name}")
    print(f"{'turn':>16} {'prompt':>8} {'cached':>7} {'again':>6} {'TTFT, ms':>9}")
    first = sessions[0]
    main = [place for place, turn in enumerate(first) if turn.agent == "main"]
    chosen = {*main[:2], *main[:: max(1, len(main) // SHOWN)], main[-1]}
    chosen |= {place for place, turn in enumerate(first) if turn.agent != "main"}
    for place in sorted(chosen):
        row = [session[place] for session in sessions]
        prompt, cached, again, ttft = (
            statistics.median(getattr(turn, field) for turn in row)
            for field in ("prompt_tokens", "cached_tokens", "again_tokens", "ttft_s")
        )
        label = f"{row[0].agent} {row[0].number + 1}"
        print(
            f"{label:>16} {prompt:8.0f} {cached / prompt:7.1%} {again / prompt:6.1%} {ttft * 1000:9.0f}"
        )
    figures = summary(sessions)
    print(
        f"{figures['turns']} turns, {figures['prompt_tokens']} prompt tokens: "
        f"{figures['cached_share']:.1%} cached, {figures['again_share']:.2%} computed again; "
        f"first token {figures['first_ttft_s']:.2f} s at turn 1, later "
        f"{figures['later_ttft_p50_s']:.2f} s (median), {figures['later_ttft_max_s']:.2f} s (worst); "
        f"{figures['took_s']:.0f} s in all"
    )
    return figures


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="a server that runs, without /v1")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--key", default="none")
    parser.add_argument("--peer-url", help="another OpenAI server, without /v1")
    parser.add_argument("--peer-model", default="default")
    parser.add_argument("--scale", type=float, default=0.1, help="of all lengths in tokens")
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--head-tokens", type=int, default=15_000)
    parser.add_argument("--prompt-tokens", type=int, default=140_000, help="of the last prompt")
    parser.add_argument("--answer-tokens", type=int, default=450)
    parser.add_argument("--sub-agents", type=int, default=2)
    parser.add_argument("--sub-turns", type=int, default=4)
    parser.add_argument("--sessions", type=int, default=1, help="at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="write the result beside the others")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    chosen = arguments()
    shape = Shape(
        chosen.turns, chosen.head_tokens, chosen.prompt_tokens, chosen.answer_tokens,
        chosen.sub_agents, chosen.sub_turns,
    ).scaled(chosen.scale)  # fmt: skip
    seen = conditions.observe()
    conditions.show(seen)
    print(f"{chosen.sessions} sessions at once: {shape}")
    results: dict[str, Any] = {}
    with served(chosen) as url:
        sessions = measure(url, chosen.model, shape, chosen)
        results["penstock"] = show(f"Penstock, {chosen.model}", sessions)
        results["turns"] = [[asdict(turn) for turn in session] for session in sessions]
    if chosen.peer_url:
        peer = measure(chosen.peer_url.rstrip("/"), chosen.peer_model, shape, chosen)
        results["peer"] = show(f"the peer, {chosen.peer_model}", peer)
        ours, theirs = (results[who]["later_ttft_p50_s"] for who in ("penstock", "peer"))
        print(f"\nfirst token of later turns: {ours / theirs:.2f} of the peer's time (medians)")
    if chosen.save:
        print(conditions.save("agents", seen, {"shape": asdict(shape), **results}))


if __name__ == "__main__":
    main()
