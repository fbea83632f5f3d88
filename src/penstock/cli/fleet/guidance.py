"""What `penstock up` prints once everything is ready: how to use the fleet."""

from __future__ import annotations

import shlex

import msgspec
from rich.markup import escape

from penstock.cli.console import err


def show(
    url: str,
    chat_model: str | None,
    first_model: str,
    controller_url: str | None,
    redis_export: str | None,
) -> None:
    """Print the addresses and lines to copy; lines are never wrapped."""
    lines = ["", f"[bold green]Penstock is ready[/] at [bold]{url}/v1[/]", ""]
    if chat_model:
        lines += _curl(url, chat_model)
    lines += ["[dim]# OpenAI SDK[/]", "from openai import OpenAI"]
    lines += [f'client = OpenAI(base_url="{url}/v1", api_key="none")']
    if not chat_model:
        lines += [f'client.embeddings.create(model="{first_model}", input="Hello!")', ""]
    else:
        messages = '\\[{"role": "user", "content": "Hello!"}]'
        lines += ["answer = client.chat.completions.create("]
        lines += [f'    model="{chat_model}", messages={messages})']
        lines += ["print(answer.choices\\[0].message.content)", ""]
    if controller_url:
        lines += ["[dim]# FastChat's web UI (in an environment of its own)[/]"]
        serve = "python3 -m fastchat.serve.gradio_web_server --controller-url"
        lines += [f"{serve} {controller_url}", ""]
    if redis_export:
        lines += ["[dim]# more workers or API processes, from another terminal[/]", redis_export]
        running = f"[dim]# {first_model} runs already[/]"
        lines += [f"celery -A workers worker -Q <model>-<device>   {running}", ""]
    lines += ["[dim]# also:[/] penstock chat, penstock status, penstock bench"]
    for line in lines:
        err.print(line, soft_wrap=True)


def show_agents(url: str, model: str) -> None:
    """Print how two coding agents find the fleet; docs/compatibility.md has more of them."""
    claude = f"ANTHROPIC_BASE_URL={url} ANTHROPIC_AUTH_TOKEN=none claude --model {model}"
    qwen = f"qwen --auth-type openai --openai-api-key none --openai-base-url {url}/v1 -m {model}"
    lines = ["", "[dim]# coding agents; docs/agents.md has more of them[/]", claude, qwen]
    for line in lines:
        err.print(line, soft_wrap=True)


def _curl(url: str, model: str) -> list[str]:
    body = msgspec.json.encode(
        {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "stream": True}
    ).decode()
    return [
        "[dim]# curl[/]",
        f"curl -N {url}/v1/chat/completions \\",
        f"  -H 'Content-Type: application/json' -d {escape(shlex.quote(body))}",
        "",
    ]
