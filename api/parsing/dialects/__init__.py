"""The dialects in which families of models call tools: one file a format, and the table of them.

docs/tool-calls.md explains how to add one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from api.parsing.dialects import (
    deepseek,
    dsml,
    gemma3,
    gemma4,
    glm4,
    glm45,
    harmony,
    kimi_k2,
    lfm2,
    llama,
    marked_json,
    minimax,
    mistral,
    pythonic,
    qwen_xml,
)
from api.parsing.dialects.dialect import Dialect

if TYPE_CHECKING:
    from collections.abc import Mapping

DIALECTS: Final[Mapping[str, Dialect]] = {
    "command": Dialect(marked_json.COMMAND.read),
    "deepseek_v3": Dialect(deepseek.read),
    "deepseek_v31": Dialect(deepseek.read),
    "deepseek_v32": Dialect(dsml.read, untyped=True),
    "functiongemma": Dialect(gemma4.FUNCTIONGEMMA.read),
    "gemma3": Dialect(gemma3.read, untyped=True),
    "gemma4": Dialect(gemma4.GEMMA4.read),
    "glm4": Dialect(glm4.read, untyped=True),
    "glm45": Dialect(glm45.read, untyped=True),
    "granite": Dialect(marked_json.GRANITE.read),
    "harmony": Dialect(harmony.read, has_channels=True),
    "hermes": Dialect(marked_json.HERMES.read),
    "internlm": Dialect(marked_json.INTERNLM.read),
    "kimi_k2": Dialect(kimi_k2.read),
    "lfm2": Dialect(lfm2.read, untyped=True),
    "llama3_json": Dialect(llama.read),
    "minimax_m2": Dialect(minimax.read, untyped=True),
    "mistral": Dialect(mistral.read),
    "mistral_args": Dialect(mistral.read),
    "nemotron": Dialect(marked_json.NEMOTRON.read),
    "phi4": Dialect(marked_json.PHI4.read),
    "phi4_mini": Dialect(marked_json.PHI4.read),
    "pythonic": Dialect(pythonic.read, untyped=True),
    "qwen3_coder": Dialect(qwen_xml.QWEN.read, untyped=True),
    "seed_oss": Dialect(qwen_xml.SEED.read, untyped=True),
}
"""By the name that a model's card has in `tool_parser`."""


def of(name: str) -> Dialect | None:
    """Return a dialect; None for a name that a newer worker may know, so that its text is content."""
    return DIALECTS.get(name)
