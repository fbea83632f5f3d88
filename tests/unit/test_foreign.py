"""JSON and files of others: at each bound and just past it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from penstock.aliases import read as read_aliases
from penstock.errors import BadSettings, InvalidParameter, ModelNotFound
from penstock.foreign import (
    JSON_DIGITS,
    JSON_NESTING,
    TooDeep,
    dump_json,
    parse_json,
    read_file,
)
from penstock.models.catalogue import folder_check
from penstock.models.catalogue.model_folder import read_config
from penstock.models.catalogue.models_file import read_models_file
from penstock.models.catalogue.resolve import LONGEST_QUEUE, discover, resolve
from penstock.models.text import flat_messages
from penstock.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def nested(levels: int) -> str:
    return "[" * levels + "1" + "]" * levels


def test_json_at_its_bounds() -> None:
    parse_json(nested(JSON_NESTING))
    assert parse_json("9" * JSON_DIGITS) > 0
    for text in (nested(JSON_NESTING + 1), "[" * 100_000, b'{"a":' * 100_000):
        with pytest.raises(TooDeep, match="nested deeper than 200 levels"):
            parse_json(text)
    for text in ("9" * (JSON_DIGITS + 1), "NaN", '"\\ud800"', '"\ud800"', b'"\xff"', ""):
        with pytest.raises(ValueError, match="not valid JSON"):
            parse_json(text)


def test_json_that_is_written_can_be_read() -> None:
    value = {"a": 10**30, "b": ["é", None, True, 1.5]}
    assert parse_json(dump_json(value)) == value
    for bad in (float("nan"), "\ud800", object()):
        with pytest.raises(ValueError, match="JSON"):
            dump_json(bad)


def call(arguments: str) -> dict[str, object]:
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}


def test_a_calls_arguments_at_their_bound() -> None:
    held = flat_messages.flattened(call(nested(JSON_NESTING)))
    assert held["tool_calls"][0]["function"]["arguments"] == parse_json(nested(JSON_NESTING))
    with pytest.raises(InvalidParameter, match="arguments are nested deeper"):
        flat_messages.flattened(call(nested(JSON_NESTING + 1)))
    assert flat_messages.flattened(call("{broken"))["tool_calls"] == call("{broken")["tool_calls"]


def test_a_file_is_regular_and_small(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_file(file, 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_file(file, 4)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            read_file(path)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    folder = tmp_path / "models" / "llama"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama", "limit": [0.0, Infinity]}')
    return Settings(models_dir=tmp_path / "models", models_file=tmp_path / "models.toml")


def test_a_queues_name_at_its_bound(settings: Settings) -> None:
    def queue(length: int) -> str:
        return "a" * (length - len("-cpu")) + "-cpu"

    with pytest.raises(ModelNotFound, match="no model"):
        resolve(queue(LONGEST_QUEUE), settings)
    for length in (LONGEST_QUEUE + 1, 300, 100_000):
        with pytest.raises(ModelNotFound, match=f"{length} characters; the limit is 200") as caught:
            resolve(queue(length), settings)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200


def test_a_path_that_no_file_system_takes_is_one_line(settings: Settings) -> None:
    settings.models_file.write_text(f'[models.long]\npath = "{"a" * 300}"\n')
    with pytest.raises(ModelNotFound, match="there is no folder"):
        resolve("long-cpu", settings)


def test_a_configuration_that_is_nested_too_deeply_is_none(settings: Settings) -> None:
    folder = settings.models_dir / "llama"
    assert read_config(folder)["limit"] == [0.0, float("inf")]
    (folder / "config.json").write_text("[" * 100_000)
    assert read_config(folder) == {}


def test_a_pipe_in_a_models_folder_is_one_line(settings: Settings) -> None:
    resolve("llama-cpu", settings)
    folder = settings.models_dir / "llama"
    (folder / "link-to-nothing").symlink_to(folder / "gone")
    resolve("llama-cpu", settings)
    for name in ("tokenizer_config.json", "1_Pooling/config.json"):
        pipe = folder / name
        pipe.parent.mkdir(exist_ok=True)
        os.mkfifo(pipe)
        began_s = time.monotonic()
        with pytest.raises(ModelNotFound, match="not a regular file"):
            resolve("llama-cpu", settings)
        assert time.monotonic() - began_s < 5
        pipe.unlink()
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert read_config(folder) == {}
    with pytest.raises(ModelNotFound, match="not a regular file"):
        resolve("llama-cpu", settings)
    assert all(spec.name != "llama" for spec in discover(settings))


def test_a_models_folder_at_its_bounds(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = settings.models_dir / "llama"
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate(folder_check.TEXT_FILE_BYTES)  # sparse: takes no disk
        resolve("llama-cpu", settings)
        file.truncate(folder_check.TEXT_FILE_BYTES + 1)
        with pytest.raises(ModelNotFound, match=r"tokenizer.json: larger than"):
            resolve("llama-cpu", settings)
        file.truncate(1)
    monkeypatch.setattr(folder_check, "FOLDER_FILES", 3)
    (folder / "third").touch()
    resolve("llama-cpu", settings)
    (folder / "fourth").touch()
    with pytest.raises(ModelNotFound, match="more than 3 files"):
        resolve("llama-cpu", settings)


def test_settings_files_that_are_no_plain_files_are_one_line(settings: Settings) -> None:
    for content in (b"models = " + b"[" * 100_000, b"\xff"):
        settings.models_file.write_bytes(content)
        with pytest.raises(BadSettings):
            read_models_file(settings.models_file)
        with pytest.raises(BadSettings):
            read_aliases(settings.models_file)
    settings.models_file.unlink()
    os.mkfifo(settings.models_file)
    with pytest.raises(BadSettings, match="not a regular file"):
        read_models_file(settings.models_file)
    with pytest.raises(BadSettings, match="not a regular file"):
        read_aliases(settings.models_file)
