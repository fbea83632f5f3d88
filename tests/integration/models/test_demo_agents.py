"""The demo model with a long context: what `penstock up --agents` serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from penstock import demo_model
from penstock.cli.fleet.command import AGENTS_QUEUE, _queues
from penstock.contract.job import ChatPrompt
from penstock.engine.model import Batch, SequenceSlice
from penstock.errors import StartupError
from penstock.models import loader
from penstock.models.catalogue import resolve
from penstock.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = 256
RULES = "Rule: keep to the words of the glossary, and write short sentences of plain English. "


def test_the_folder_is_written_once(tmp_path: Path) -> None:
    folder = tmp_path / "models" / demo_model.LONG_NAME
    demo_model.write_long(folder)
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert [one.name for one in folder.parent.iterdir()] == [folder.name]
    (folder / "config.json").write_text("mine", encoding="utf-8")
    demo_model.write_long(folder)
    assert (folder / "config.json").read_text(encoding="utf-8") == "mine"


def test_the_queues_of_up(tmp_path: Path) -> None:
    assert _queues([], tmp_path, agents=False) == ("bigdl-demo-cpu",)
    assert list(tmp_path.iterdir()) == []
    assert _queues(["a-cpu"], tmp_path / "models", agents=True) == ("a-cpu", AGENTS_QUEUE)
    assert _queues([], tmp_path / "models", agents=True) == (AGENTS_QUEUE,)
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match="cannot be written"):
        _queues([], tmp_path / "file", agents=True)


def test_it_answers_what_comes_last_in_a_prompt_beyond_its_window(tmp_path: Path) -> None:
    demo_model.write_long(tmp_path / demo_model.LONG_NAME)
    settings = Settings(models_dir=tmp_path, models_file=tmp_path / "none", threads=1)
    spec = resolve.resolve(AGENTS_QUEUE, settings)
    loaded = loader.load(spec, settings, slots=1, progress=lambda _share, _word: None)
    assert loaded.card.context_length == demo_model.LONG_CONTEXT
    messages = (
        {"role": "system", "content": RULES * 80},
        {"role": "user", "content": "What is the capital of France?"},
    )
    tokens = list(loaded.tokenizer.encode(ChatPrompt(messages)))
    prompt, answer = len(tokens), list[int]()
    assert prompt > 2 * 1024
    table = range(prompt // loaded.model.kv_layout.block_size + 4)
    place = 0
    while len(answer) < 32:
        part = tokens[place : place + CHUNK]
        place += len(part)
        rows = loaded.model.forward(
            Batch([SequenceSlice(1, part, place - len(part), table, len(part) - 1)])
        )
        if place < len(tokens):
            continue
        token = int(rows[-1].argmax())
        if token in loaded.tokenizer.eos_token_ids:
            break
        answer.append(token)
        tokens.append(token)
    assert loaded.tokenizer.decode(answer) == "The capital of France is Paris."
