"""docs/security.md: every test that it names is there, and what it says of defaults is so."""

from __future__ import annotations

import re

from penstock.models.spec import ModelSpec
from penstock.settings import Settings
from tests.unit.deploy.test_web_deploy import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
PART = re.compile(r"((?:unit|integration|e2e|fuzz)/[\w/]*test_\w+)|`(\w+)`")


def promises() -> list[tuple[str, str]]:
    rows = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    cells = [(row[0].strip("| "), row[-1].strip("| ")) for row in rows if len(row) == 2]
    return [row for row in cells if row[0] not in {"promise", "---"}]


def test_every_promise_names_tests_that_are_there() -> None:
    assert len(promises()) > 25
    for promise, cell in promises():
        text, named = "", 0
        for file, name in PART.findall(cell):
            if file:
                text = (ROOT / "tests" / f"{file}.py").read_text()
            else:
                assert re.search(rf"def test_{name}\b", text), (promise, name)
            named += 1
        assert named, promise


def test_defaults() -> None:
    settings = Settings()
    assert not settings.trust_remote_code
    assert not settings.fastchat_open
    assert settings.cors_origins == settings.fastchat_worker_hosts == settings.image_hosts == ()
    assert settings.fastchat_worker_token == ""
    assert ModelSpec.__dataclass_fields__["trust_remote_code"].default is False
    assert ModelSpec.__dataclass_fields__["allow_pickle"].default is False


def test_nothing_unpickles() -> None:
    """`torch.load` alone reads pickles, and only ever tensors (`weights_only`)."""
    for folder in ("src", "workers", "api"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            assert not re.search(r"\b(pickle|dill|cloudpickle|marshal|shelve)\b\.?load", text), path
            assert not re.search(
                r"^(import|from) (pickle|dill|cloudpickle|marshal|shelve)\b", text, re.MULTILINE
            )
            for call in re.findall(r"torch\.load\((.*?)\)\n", text, re.DOTALL):
                assert "weights_only=True" in call, path
