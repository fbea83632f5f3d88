from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from penstock import __version__
from penstock.cli.console import show_error
from penstock.errors import BadSettings, StartupError

if TYPE_CHECKING:
    from pathlib import Path


def penstock(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "penstock.cli", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=60,
        env={**os.environ, **env},
    )


def test_the_command_line_starts_without_torch() -> None:
    code = (
        "import sys, penstock.cli.application; "
        "print([m for m in ('torch', 'transformers', 'openai', 'bigdl') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_version(tmp_path: Path) -> None:
    done = penstock("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, f"penstock {__version__}")


def test_an_unknown_option_is_a_usage_error(tmp_path: Path) -> None:
    assert penstock("models", "--no-such-option", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("error", "code"), [(StartupError("[odd] text"), 1), (BadSettings("x"), 2), (KeyError("y"), 1)]
)
def test_errors_are_one_line(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_error(error) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(error.args[0]) in said


def test_a_bad_setting_is_named(tmp_path: Path) -> None:
    done = penstock("models", cwd=tmp_path, PENSTOCK_LEASE_MS="soon")
    assert done.returncode == 2
    assert "PENSTOCK_LEASE_MS" in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = penstock("--debug", "models", cwd=tmp_path, PENSTOCK_LEASE_MS="soon")
    assert "Traceback" in done.stderr


def test_up_names_an_unknown_model_before_it_starts_anything(tmp_path: Path) -> None:
    done = penstock("up", "--queue", "no-such-model-cpu", cwd=tmp_path)
    assert done.returncode == 1
    assert "no-such-model-cpu" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob(".penstock/logs/*"))


def test_doctor_reports_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="without torch nothing is served here")
    done = penstock("doctor", "--json", cwd=tmp_path)
    found = {one["subject"]: one for one in json.loads(done.stdout)}
    assert found["torch"]["mark"] == "ok"
    assert found["Redis"]["mark"] == "ok"
    assert found["CPU"]["found"]
    assert done.returncode == 0


@pytest.fixture
def commands() -> dict[str, Any]:
    import typer.main

    from penstock.cli.application import app

    root: Any = typer.main.get_command(app)
    found: dict[str, Any] = {"": root}
    for name, command in root.commands.items():
        found[name] = command
        for sub, inner in getattr(command, "commands", {}).items():
            found[f"{name} {sub}"] = inner
    return found


def test_every_command_has_examples_that_it_takes(commands: dict[str, Any]) -> None:
    import shlex

    for name, command in commands.items():
        if getattr(command, "commands", None) and name:
            continue  # `keys` lists its commands
        title, *examples = command.epilog.split("\n\n")
        assert title == "Examples:", name
        assert examples, name
        for example in examples:
            words = shlex.split(example.partition(" > ")[0])
            words = words[words.index("penstock") + 1 :]
            depth = len(name.split())
            assert words[:depth] == name.split(), example
            if name and "--help" not in words:
                context = command.make_context(name, words[depth:], resilient_parsing=True)
                unknown = [word for word in context.args if word.startswith("-")]
                assert name in {"api", "worker"} or not unknown, example


def test_doctor_looks_at_the_redis_that_is_set(tmp_path: Path) -> None:
    dead = "redis://127.0.0.1:1/0"
    done = penstock("doctor", "--json", cwd=tmp_path, PENSTOCK_REDIS_URL=dead)
    found = {one["subject"]: one for one in json.loads(done.stdout)}
    assert found["Redis in use"]["mark"] == "missing"
    assert "127.0.0.1:1/0" in found["Redis in use"]["found"]
    assert done.returncode == 1


def test_doctor_asks_the_redis_that_is_set(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "api").mkdir()
    done = penstock("doctor", "--json", cwd=tmp_path, PENSTOCK_REDIS_URL=redis_url)
    found = {one["subject"]: one for one in json.loads(done.stdout)}
    assert found["Redis in use"]["mark"] in {"ok", "note"}
    assert re.search(r"(redis|valkey) \d+\.", found["Redis in use"]["found"])
    assert "penstock api" in found["name 'api'"]["advice"]
