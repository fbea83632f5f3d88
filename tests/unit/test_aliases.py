"""The aliases file: what it may say, how its weights draw, and that it may change."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from penstock import aliases
from penstock.aliases import Alias, Aliases
from penstock.errors import BadSettings

if TYPE_CHECKING:
    from pathlib import Path


def test_weights_draw_as_stated() -> None:
    alias = Alias({"a": 9, "b": 1, "never": 0})
    drawn = Counter(alias.order(None)[0] for _ in range(3_000))
    assert 2_550 < drawn["a"] < 2_850
    assert drawn["a"] + drawn["b"] == 3_000
    assert alias.order(None)[2] == "never"
    assert len({alias.order("a request's key") for _ in range(20)}) == 1
    assert {alias.order(str(number))[0] for number in range(100)} == {"a", "b"}
    assert Alias("a").order(None) == ("a",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[aliases.x]\n", "models"),
        ("[aliases.x]\nmodels = {}", "weight above 0"),
        ("[aliases.x]\nmodels = {a = 0}", "weight above 0"),
        ("[aliases.x]\nmodels = {a = 2, b = -1}", "below 0"),
        ('[aliases.x]\nmodels = "a"\nweight = 3', "weight"),
        ('[aliases.x]\nmodels = "y"\n[aliases.y]\nmodels = "a"', "'y' is an alias itself"),
        ('[alias.x]\nmodels = "a"', "alias"),
        ("[aliases", "aliases.toml"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "aliases.toml"
    file.write_text(text)
    with pytest.raises(BadSettings, match=r"aliases\.toml") as caught:
        aliases.read(file)
    assert said in caught.value.message


def test_a_file_that_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [time.monotonic()]
    monkeypatch.setattr("penstock.aliases.time.monotonic", lambda: now_s[0])
    file = tmp_path / "aliases.toml"
    known = Aliases(file)
    assert known.names() == ()

    def write(text: str) -> None:
        file.write_text(text)
        now_s[0] += aliases.LOOK_EVERY_S

    write('[aliases.chat]\nmodels = "a"\nfallback = ["b"]')
    assert known.get("chat") == Alias("a", ("b",))
    write("[aliases.chat]\nmodels = ")
    assert known.get("chat") == Alias("a", ("b",))
    write("[aliases.chat]\nmodels = { chat = 1, other = 2 }")  # over a model of the same name
    assert known.get("chat") == Alias({"chat": 1, "other": 2})
    file.unlink()
    now_s[0] += aliases.LOOK_EVERY_S
    assert known.get("chat") is None
