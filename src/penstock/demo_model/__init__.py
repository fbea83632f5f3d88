"""Penstock's own small chat model, shipped as data: see README.md beside this file."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

LONG_NAME: Final = "demo-agents"
"""The folder of the same weights with a long context."""
LONG_CONTEXT: Final = 131_072
"""Tokens: coding agents' prompts take 10,000 to 60,000 of this tokenizer's short ones."""
_WEIGHTS: Final = (
    "chat_template.jinja", "generation_config.json", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json",
)  # fmt: skip


def path() -> Path:
    """The folder to load with Transformers or bigdl-llm."""
    return Path(__file__).parent


def long_config() -> dict[str, Any]:
    """Return the configuration of the same weights with a long context.

    Each layer attends to as many tokens as the model was trained with, and no further back, as
    Mistral's windows do. So no position is farther away than it knows, and it answers what comes
    last as it would a short prompt; of what is before the window it sees next to nothing.
    """
    config = json.loads((path() / "config.json").read_text(encoding="utf-8"))
    return {
        **config,
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": config["max_position_embeddings"],
        "max_position_embeddings": LONG_CONTEXT,
    }


def write_long(folder: Path) -> None:
    """Write the model with a long context as a folder of its own, whole or not at all.

    A folder that is there is left alone.

    :raises OSError: the folder cannot be written.
    """
    if folder.exists():
        return
    config = json.dumps(long_config(), indent=2) + "\n"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        whole = Path(name) / folder.name
        whole.mkdir()
        for file in _WEIGHTS:
            shutil.copyfile(path() / file, whole / file)
        (whole / "config.json").write_text(config, encoding="utf-8")
        whole.rename(folder)
