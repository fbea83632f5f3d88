"""docs/operations.md, word by word: its commands, metrics, settings, alerts and codes are ours."""

from __future__ import annotations

import json
import re
from typing import Any

import click
import pytest
import typer.main
import yaml
from typer.core import TyperGroup

from api.application import create_app
from penstock import errors
from penstock.cli.application import app as command_line
from penstock.settings import Settings
from tests.unit.deploy.test_web_deploy import MONITORING, ROOT, exported

GUIDE = ROOT / "docs" / "operations.md"
TEXT = GUIDE.read_text()
SPANS = ["queue wait", "claim", "prefill", "decode"]


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def code() -> list[str]:
    """Return everything set as code: inline, and the lines of blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return lines + re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL))


def first_column(title: str) -> list[str]:
    rows = re.findall(r"^\| (.+?) \|", section(title), re.MULTILINE)
    return [row for row in rows[1:] if not row.startswith("-")]


def families() -> dict[str, str]:
    """Return every metric's whole name by the name that the guide uses."""
    return {
        short: name
        for name in exported()
        for short in (name, name.removeprefix("penstock_"), name.removeprefix("penstock_worker"))
    }


def test_every_metric_that_it_names_is_exported() -> None:
    known = families()
    known |= {re.sub(r"_(bucket|count|sum)$", "", name): whole for name, whole in known.items()}
    metrics = section("Looking").split("**Metrics of the API**", 1)[1]
    named = [
        found[1].lstrip(".")
        for found in re.finditer(r"`((?:\.\.\.)?[a-z_]{8,})(?:\{[a-z_]+\})?`", metrics)
    ]
    vllm_only = {"kv_cache_usage_perc", "model_name", "penstock_"}
    assert len(named) > 12
    assert [name for name in named if name not in known and name not in vllm_only] == []
    for name in re.findall(r"\bpenstock_[a-z_]+[a-z]\b", TEXT):
        assert name in known, name


def test_its_alerts_are_the_rules_that_there_are() -> None:
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    rules = [rule["alert"] for group in groups for rule in group["rules"]]
    assert sorted(first_column("Alerts")) == sorted(rules)


def test_its_commands_are_there_with_their_options() -> None:
    root: Any = typer.main.get_command(command_line)
    seen = 0
    for line in code():
        if not (match := re.search(r"(?:^|\s)penstock ((?:[a-z]+ ?)+)(.*)", line)):
            continue
        seen += 1
        command = root
        for word in match[1].split():
            if not isinstance(command, click.Group | TyperGroup):
                break
            assert word in command.commands, line
            command = command.commands[word]
        options = {name for param in command.params for name in param.opts}
        assert set(re.findall(r"--[a-z-]+", match[2])) <= options, line
    assert seen > 8


def test_its_targets_modules_and_files_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in code():
        if match := re.match(r"make ([a-z-]+)", line):
            assert re.search(rf"^{match[1]}:", makefile, re.MULTILINE), line
        if match := re.search(r"python -m (benchmarks\.[a-z_.]+)", line):
            assert (ROOT / f"{match[1].replace('.', '/')}.py").is_file(), line
        for path in re.findall(r"(?:deploy|tests|docs|docker)/[\w./-]+", line):
            assert (ROOT / path).exists(), line
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]*)?\)", TEXT):
        assert (GUIDE.parent / target).exists(), target
    profiles = {
        profile
        for service in yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
        for profile in service.get("profiles", ())
    }
    said = re.search(r"profiles ((?:`[a-z-]+`(?:, )?)+)", TEXT)
    assert said is not None
    assert set(re.findall(r"`([a-z-]+)`", said[1])) == profiles


def test_its_addresses_are_served() -> None:
    served = {
        (method, re.sub(r"\{[^}]+\}", "<id>", path))
        for path, methods in create_app(Settings()).openapi()["paths"].items()
        for method in methods
    }
    said = re.findall(r"`(GET|POST) (/[^`?]+)", TEXT)
    assert len(said) > 5
    for method, path in said:
        stem, _, last = path.rpartition("/")
        for end in last.split("|"):
            assert (method.lower(), f"{stem}/{end}") in served, path


def test_its_codes_are_errors_that_clients_get() -> None:
    codes = {
        one.code
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, errors.PenstockError)
    }
    said = re.findall(r"`([a-z_]+)`", " ".join(first_column("When something is wrong")))
    assert said
    assert set(said) <= codes


def test_the_sample_is_a_whole_trace_and_the_guide_describes_it() -> None:
    lines = (ROOT / "docs" / "trace-sample.jsonl").read_text().splitlines()
    spans: dict[str, dict[str, Any]] = {span["name"]: span for span in map(json.loads, lines)}
    http, attempt = "POST /v1/chat/completions", "chat bigdl-demo"
    assert set(spans) == {http, attempt, *SPANS}
    assert len({span["context"]["trace_id"] for span in spans.values()}) == 1
    assert spans[http]["parent_id"] is None
    assert spans[attempt]["parent_id"] == spans[http]["context"]["span_id"]
    table = section("A trace")
    came_ms = milliseconds(spans[http]["start_time"])
    for name, span in spans.items():
        start, end = (milliseconds(span[at]) - came_ms for at in ("start_time", "end_time"))
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}`"))
        said = re.search(r"\| ([\d.]+) to ([\d.]+) \|", row)
        assert said is not None
        assert (float(said[1]), float(said[2])) == pytest.approx((start, end), abs=0.06)
    attributes = {*spans[attempt]["attributes"], *spans[http]["attributes"]}
    told = set(re.findall(r"`((?:gen_ai|penstock)\.[a-z_.]+)`", table))
    assert told - attributes == {"gen_ai.request.stop_sequences", "penstock.dropped"}


def milliseconds(stamp: str) -> float:
    minute, second = stamp.split(":")[1:]
    return float(minute) * 60_000 + float(second.rstrip("Z")) * 1000
