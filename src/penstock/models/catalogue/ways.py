"""How each architecture runs, as recorded by tests: a table that ships with the package."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Final

SPEEDS: Final = (
    "",
    "grouped-recompute",
    "grouped-tokens",
    "grouped-chunks",
    "paged",
    "lean",
    "openvino",
    "native",
)
"""Ways of running a model (`ModelCard.running`), slowest first."""

COSTS: Final = {
    "grouped-recompute": "one forward a sequence and step, all of the text again for each token",
    "grouped-tokens": "one forward a sequence and token, in prompts too after their first chunk",
    "grouped-chunks": "one forward a sequence and step: several at once are no faster than in turn",
    "paged": "continuous batching, through Transformers' own layers",
    "lean": "continuous batching, by a decoder of our own",
    "openvino": "continuous batching, by OpenVINO",
    "native": "continuous batching, by kernels of our own: the fastest on a CPU",
}
"""The cost of each, in a few words."""


@dataclass(frozen=True, slots=True)
class Way:
    """How one architecture runs on a CPU in 16 or 32 bit and in 4 bit, or why it is refused."""

    full: str = ""
    low_bit: str = ""
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Ways:
    """By `model_type`: language models, checkpoints with images, and types that no test builds."""

    transformers: str
    text: dict[str, Way]
    images: dict[str, Way]
    unbuilt: dict[str, str] = field(default_factory=dict[str, str])


@cache
def read() -> Ways:
    """Return the table of this release."""
    text = resources.files("penstock.models.catalogue").joinpath("ways.toml").read_text("utf-8")
    stated: dict[str, Any] = tomllib.loads(text)
    return Ways(
        transformers=stated["transformers"],
        text={name: _way(value) for name, value in stated["text"].items()},
        images={name: _way(value) for name, value in stated["images"].items()},
        unbuilt=stated["unbuilt"],
    )


def speed(running: str) -> int:
    """Return the rank of a way of running; higher is faster."""
    return SPEEDS.index(running)


def expected(config: dict[str, Any], *, low_bit: bool) -> str:
    """Return how a model of this configuration is expected to run; "" if its type is unknown."""
    kind = str(config.get("model_type"))
    table = read()
    way = table.images.get(kind) or table.text.get(kind) or Way()
    return way.low_bit if low_bit else way.full


def _way(value: list[str] | str) -> Way:
    return Way(refusal=value) if isinstance(value, str) else Way(*value)
