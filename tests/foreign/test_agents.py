"""Coding agents, the programs themselves: a turn with a call of a tool, and its result.

`scripts/foreign/setup.sh agents` installs them. The model's answers are forced, by a worker that
writes what a model would; all else is real. The programs reach this machine's loopback alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.events import Finished, FinishReason, Tokens, Usage
from tests.fixtures.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from penstock.contract.job import ChatPrompt, Job
    from tests.fixtures.api import Fleet, Script, ScriptedWorker

AGENTS = ROOT / "scripts" / "foreign" / "agents" / "node_modules"
CODEX = AGENTS / ".bin" / "codex"
CLAUDE = AGENTS / "@anthropic-ai" / "claude-code-linux-x64" / "claude"
CARD: Any = {
    "tool_parser": "hermes",
    "capabilities": ("generate", "structure"),
    "context_length": 200_000,
    # Codex sends each model what it knows of it: older ones a patch, newer ones programs.
    "aliases": ("gpt-5.5", "gpt-6.2-sol"),
}
DONE = "All done."
PATCH = '*** Begin Patch\n*** Add File: made.txt\n+a "word"\n*** End Patch\n'
PROGRAM = 'text(await tools.exec_command({cmd: "echo \'a \\"word\\"\' > made.txt"}))'
CONFIG = """
model_provider = "penstock"
approval_policy = "never"
sandbox_mode = "danger-full-access"
[analytics]
enabled = false
[model_providers.penstock]
name = "penstock"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "KEY"
request_max_retries = 0
stream_max_retries = 0
"""


def calls(**arguments: Any) -> Callable[[Job], Script]:
    """Return a script that calls the tool `name`, and says that it is done when it has a result."""
    name = arguments.pop("name")
    call = json.dumps({"name": name, "arguments": arguments})

    def script(job: Job) -> Script:
        prompt: ChatPrompt = job.work.prompt
        offered = [tool["function"]["name"] for tool in prompt.tools]
        is_turn = name in offered and prompt.messages[-1]["role"] != "tool"
        text = f"<tool_call>\n{call}\n</tool_call>" if is_turn else DONE
        pieces = [text[at : at + 7] for at in range(0, len(text), 7)]
        for index, piece in enumerate(pieces):
            yield Tokens(job.id, index, (index,), piece, prompt_tokens=None if index else 3)
        yield Finished(job.id, len(pieces), FinishReason.STOP, Usage(3, len(pieces)))

    return script


def run(command: list[str], folder: Path, **more: str) -> str:
    """Run a program in an empty folder with a home of its own, and return what it says."""
    if not shutil.which(command[0]):
        pytest.skip("scripts/foreign/setup.sh agents has not installed it")
    (folder / "work").mkdir()
    done = subprocess.run(
        command,
        check=False,
        cwd=folder / "work",
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "HTTPS_PROXY": "http://127.0.0.1:9",  # nobody is there
            "NO_PROXY": "127.0.0.1",
            **more,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    print(done.stdout[-20_000:])  # noqa: T201 - pytest shows it
    assert done.returncode == 0
    return done.stdout


def tool_result(worker: ScriptedWorker) -> str:
    """Return what the program has sent back for the call."""
    prompts = [job.work.prompt for job in worker.jobs]
    [result] = [
        prompt.messages[-1]["content"]
        for prompt in prompts
        if prompt.messages[-1]["role"] == "tool"
    ]
    return result


@pytest.mark.parametrize(
    ("model", "call"),
    [
        ("gpt-5.5", {"name": "apply_patch", "input": PATCH}),
        ("gpt-6.2-sol", {"name": "functions__exec", "input": PROGRAM}),
        ("tiny", {"name": "exec_command", "cmd": "echo 'a \"word\"' > made.txt"}),
    ],
)
def test_codex(fleet: Fleet, tmp_path: Path, model: str, call: dict[str, Any]) -> None:
    server = fleet.api()
    worker = fleet.worker(calls(**call), **CARD)
    settings = tmp_path / ".codex"
    settings.mkdir()
    (settings / "config.toml").write_text(CONFIG.format(url=server.url), encoding="utf-8")
    command = [str(CODEX), "exec", "--skip-git-repo-check", "-m", model, "Make made.txt"]
    assert DONE in run(command, tmp_path, KEY="none")
    assert (tmp_path / "work" / "made.txt").read_text(encoding="utf-8") == 'a "word"\n'
    assert tool_result(worker)


def test_claude_code(fleet: Fleet, tmp_path: Path) -> None:
    server = fleet.api()
    worker = fleet.worker(calls(name="Bash", command="echo 'a \"word\"' > made.txt"), **CARD)
    command = [str(CLAUDE), "-p", "Make made.txt", "--model", "tiny", "--allowedTools", "Bash"]
    said = run(
        command,
        tmp_path,
        ANTHROPIC_BASE_URL=server.url,
        ANTHROPIC_AUTH_TOKEN="none",
        ANTHROPIC_DEFAULT_HAIKU_MODEL="tiny",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        DISABLE_AUTOUPDATER="1",
        DISABLE_ERROR_REPORTING="1",
        DISABLE_TELEMETRY="1",
    )
    assert DONE in said
    assert (tmp_path / "work" / "made.txt").read_text(encoding="utf-8") == 'a "word"\n'
    assert tool_result(worker) is not None
