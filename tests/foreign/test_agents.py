"""Coding agents, the programs themselves: a turn with a call of a tool, and its result.

`scripts/foreign/setup.sh` installs them. Each is set up as docs/agents.md says. The fleet is real, a
worker over a real engine among its processes; its model's tokens are forced, since no small model
calls their tools by itself. The programs reach this machine's loopback alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.fixtures.forced.fleet import MODEL, ForcedFleet, forced_fleet
from tests.fixtures.forced.script import RESULT, Line, call
from tests.fixtures.processes import ROOT
from tests.fixtures.redis import find_free_port
from tests.foreign.guide import Guide

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.fixtures.processes import Processes

AGENTS = ROOT / "scripts" / "foreign" / "agents"
DONE = "All done."
TASK = "Make made.txt"
WORD = 'a "word"\n'
ECHO = "echo 'a \"word\"' > made.txt"
PATCH = f"*** Begin Patch\n*** Add File: made.txt\n+{WORD}*** End Patch\n"
PROGRAM = 'text(await tools.exec_command({cmd: "echo \'a \\"word\\"\' > made.txt"}))'
EDIT = f"I make it.\n\nmade.txt\n```\n<<<<<<< SEARCH\n=======\n{WORD}>>>>>>> REPLACE\n```\n"


def node(package: str, program: str) -> Path:
    """Return the program of a folder of Node packages."""
    return AGENTS / package / "node_modules" / ".bin" / program


def venv(name: str, program: str) -> Path:
    """Return the program of a Python environment."""
    return ROOT / f".venv-foreign-{name}" / "bin" / program


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForcedFleet]:
    if not os.environ.get("PENSTOCK_TEST_FOREIGN"):
        pytest.skip("programs of others: make test-foreign")
    # Codex sends each model what it knows of it: older ones a patch, newer ones programs.
    folder = tmp_path_factory.mktemp("agents")
    with forced_fleet(folder, aliases=("gpt-5.5", "gpt-6.2-sol")) as fleet:
        yield fleet


@dataclass(frozen=True)
class Home:
    """A user with an empty home, who has read the program's section of docs/agents.md."""

    folder: Path
    guide: Guide

    @property
    def work(self) -> Path:
        """The folder that the program works in."""
        return self.folder / "work"

    def run(self, program: Path, *arguments: str, **more: str) -> str:
        """Run a program to its end and return what it says."""
        done = subprocess.run(
            [str(program), *arguments],
            check=False,
            cwd=self.work,
            env={
                "PATH": f"{program.parent}:{os.environ['PATH']}",
                "HOME": str(self.folder),
                "HTTPS_PROXY": "http://127.0.0.1:9",  # nobody is there
                "NO_PROXY": "127.0.0.1",
                **self.guide.environment,
                **more,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
        )
        print(done.stdout[-20_000:])  # noqa: T201 - pytest shows it
        assert done.returncode == 0
        return done.stdout


def home(name: str, program: Path, url: str, folder: Path) -> Home:
    """Return a home with the files that the page has for a program."""
    if not shutil.which(program):
        pytest.skip("scripts/foreign/setup.sh has not installed it")
    guide = Guide.of(name, url)
    made = Home(folder, guide)
    made.work.mkdir()
    for path, text in guide.files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return made


def as_written(home: Home) -> list[str]:
    """Return the arguments of the page's last command."""
    return [word.replace("~", str(home.folder)) for word in home.guide.commands[-1][1:]]


def one_call(name: str, **arguments: Any) -> list[Line]:
    """Return the script of a turn with one call."""
    return [Line(call(name, **arguments), tool=name, results=0), Line(DONE)]


@dataclass(frozen=True)
class Program:
    """An agent that runs a shell command by a tool."""

    section: str
    program: Path
    tool: str
    arguments: dict[str, Any]
    options: Sequence[str]
    """What the command of the page lacks to run one turn without a terminal."""
    environment: tuple[tuple[str, str], ...] = ()


SHELLS = (
    Program(
        "Claude Code",
        AGENTS / "claude-code/node_modules/@anthropic-ai/claude-code-linux-x64/claude",
        "Bash", {"command": ECHO}, ("-p", TASK, "--allowedTools", "Bash"),
        (("DISABLE_AUTOUPDATER", "1"), ("DISABLE_ERROR_REPORTING", "1"), ("DISABLE_TELEMETRY", "1")),
    ),
    Program(
        "opencode", node("opencode", "opencode"),
        "bash", {"command": ECHO, "description": "make it"}, ("run", TASK),
    ),
    Program("Cline", node("cline", "cline"), "run_commands", {"commands": [ECHO]}, (TASK,)),
    Program(
        "Qwen Code", node("qwen-code", "qwen"),
        "run_shell_command", {"command": ECHO, "is_background": False}, ("--yolo", TASK),
    ),
    Program(
        "Copilot CLI", node("copilot", "copilot"),
        "bash", {"command": ECHO, "description": "make it"}, ("--allow-all-tools", "-p", TASK),
    ),
    Program(
        "Continue", node("continue", "cn"), "Bash", {"command": ECHO}, ("--auto", "-p", TASK),
        (("CONTINUE_TELEMETRY_ENABLED", "0"),),
    ),
    Program("Pi", node("pi", "pi"), "bash", {"command": ECHO}, ("-p", TASK)),
)  # fmt: skip


@pytest.mark.parametrize("agent", SHELLS, ids=lambda agent: agent.section)
def test_a_shell_command(fleet: ForcedFleet, tmp_path: Path, agent: Program) -> None:
    user = home(agent.section, agent.program, fleet.url, tmp_path)
    fleet.script.write(one_call(agent.tool, **agent.arguments))
    environment = dict(agent.environment)
    for words in user.guide.commands[:-1]:
        user.run(agent.program, *words[1:], **environment)
    said = user.run(agent.program, *as_written(user), *agent.options, **environment)
    assert DONE in said
    assert (user.work / "made.txt").read_text(encoding="utf-8") == WORD
    assert RESULT in fleet.script.prompts()[-1].rpartition("<tool_call>")[2]


@pytest.mark.parametrize(
    ("model", "name", "arguments"),
    [
        ("gpt-5.5", "apply_patch", {"input": PATCH}),
        ("gpt-6.2-sol", "functions__exec", {"input": PROGRAM}),
        (MODEL, "exec_command", {"cmd": ECHO}),
    ],
)
def test_codex(
    fleet: ForcedFleet, tmp_path: Path, model: str, name: str, arguments: dict[str, Any]
) -> None:
    program = node("codex", "codex")
    user = home("Codex", program, fleet.url, tmp_path)
    fleet.script.write(one_call(name, **arguments))
    free = ("--dangerously-bypass-approvals-and-sandbox", "--skip-git-repo-check")
    said = user.run(program, "exec", *free, "-c", "analytics.enabled=false", "-m", model, TASK)
    assert DONE in said
    assert (user.work / "made.txt").read_text(encoding="utf-8") == WORD
    assert RESULT in fleet.script.prompts()[-1].rpartition("<tool_call>")[2]


def test_aider(fleet: ForcedFleet, tmp_path: Path) -> None:
    """Its edit format is its tool; what comes of the edit, a test's words, is the result."""
    program = venv("aider", "aider")
    user = home("aider", program, fleet.url, tmp_path)
    fleet.script.write([Line(EDIT, says=TASK), Line(DONE)])
    quiet = ("--yes-always", "--no-git", "--no-check-update", "--no-show-model-warnings")
    test = ("--auto-test", "--test-cmd", "cat made.txt; echo tested; exit 1")
    more = {"AIDER_ANALYTICS_DISABLE": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    said = user.run(program, *as_written(user), *quiet, *test, "--message", TASK, **more)
    assert DONE in said
    assert (user.work / "made.txt").read_text(encoding="utf-8") == WORD
    assert f"{WORD}tested" in fleet.script.prompts()[-1]


def test_mini_swe_agent(fleet: ForcedFleet, tmp_path: Path) -> None:
    program = venv("mini-swe-agent", "mini")
    user = home("mini-swe-agent", program, fleet.url, tmp_path)
    submit = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
    fleet.script.write(
        [
            Line("I make it.\n" + call("bash", command=f"{ECHO}; echo made"), "bash", 0),
            Line("Done.\n" + call("bash", command=submit), "bash", 1),
        ]
    )
    turn = ("-t", TASK, "--yolo", "--cost-limit", "0", "--exit-immediately")
    more = {"MSWEA_CONFIGURED": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    assert submit in user.run(program, *as_written(user), *turn, **more)
    assert (user.work / "made.txt").read_text(encoding="utf-8") == WORD
    first, second = fleet.script.prompts()
    assert RESULT not in first
    assert '"output": "made' in second.rpartition(RESULT)[2]


SMOLAGENTS = f'''
from smolagents import {{agent}}, tool

@tool
def note(text: str) -> str:
    """Note a text in made.txt.

    Args:
        text: What to write.
    """
    with open("made.txt", "w") as file:
        file.write(text)
    return "noted"

print({{agent}}(tools=[note], model=model, max_steps=3).run({TASK!r}))
'''


@pytest.mark.parametrize("agent", ["ToolCallingAgent", "CodeAgent"])
def test_smolagents(fleet: ForcedFleet, tmp_path: Path, agent: str) -> None:
    """Its agents that call tools require a call; those that write code end at a text of theirs."""
    program = venv("smolagents", "python")
    user = home("smolagents", program, fleet.url, tmp_path)
    if agent == "CodeAgent":
        note, end = (
            f"<code>\nprint(note({WORD!r}))\n</code>",
            f'<code>\nfinal_answer("{DONE}")\n</code>',
        )
    else:
        note, end = call("note", text=WORD), call("final_answer", answer=DONE)
    fleet.script.write([Line(note, says=TASK), Line(end, says="Observation")])
    code = user.folder / "agent.py"
    code.write_text(user.guide.python + SMOLAGENTS.replace("{agent}", agent), encoding="utf-8")
    assert DONE in user.run(program, str(code)).splitlines()[-1]
    assert (user.work / "made.txt").read_text(encoding="utf-8") == WORD
    assert "noted" in fleet.script.prompts()[-1].rpartition("Observation")[2]


def test_the_demo_fleet(tmp_path: Path, processes: Processes, monkeypatch: Any) -> None:
    """`penstock up --agents`, whose model answers what comes last in an agent's prompt."""
    if not os.environ.get("PENSTOCK_TEST_FOREIGN"):
        pytest.skip("programs of others: make test-foreign")
    monkeypatch.delenv("PENSTOCK_REDIS_URL", raising=False)
    port, redis_port = find_free_port(), find_free_port()
    program = node("pi", "pi")
    user = home("Pi", program, f"http://127.0.0.1:{port}", tmp_path)
    ports = ("--port", str(port), "--redis-port", str(redis_port), "--fastchat-port", "0")
    command = [sys.executable, "-m", "penstock.cli", "up", "--agents", "--chat", "", *ports]
    up = processes.start("up", command, {"PENSTOCK_SLOTS": "2"}, tmp_path)
    up.wait_until(lambda: "Ctrl-C stops everything" in up.output())
    assert f"ANTHROPIC_BASE_URL=http://127.0.0.1:{port} " in up.output()
    assert "Penstock is a " in user.run(program, *as_written(user), "-p", "What is Penstock?")
    assert up.stop(60.0) == 0
