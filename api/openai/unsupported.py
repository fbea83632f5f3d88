"""The rule for what clients send and this server does not run.

A field is refused if leaving it out would make the answer wrong in a way that its client cannot
see: another text than the requested one. Every other one is left out and reported in the
request's warnings. docs/compatibility.md has the lists.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.errors import UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Mapping

    from api.http.warnings import Warnings

LONGEST_NAME: Final = 60
NOTHING: Final[tuple[Any, ...]] = (None, False, "", [], {})
"""Values by which a client asks for nothing."""

Table = dict[str, tuple[Any, ...]]
"""Fields, and the values by which they ask for nothing."""


@dataclass(frozen=True)
class Rule:
    """What becomes of the fields of an endpoint's body beyond those of its schema.

    `without_effect` are fields that change no answer, so nothing is reported of them. `within` is
    the field that holds these fields, if it is not the body itself.
    """

    refused: Table = field(default_factory=Table)
    left_out: Table = field(default_factory=Table)
    without_effect: frozenset[str] = frozenset()
    within: str = ""

    def apply(
        self, body: Mapping[str, object], known: Mapping[str, object], warnings: Warnings
    ) -> None:
        """Look through the body as it was sent; `known` are the fields of its schema.

        :raises UnsupportedFeature: it asks for something that is refused.
        """
        for name, harmless in self.refused.items():
            if name in body and not _is_among(body[name], harmless):
                raise UnsupportedFeature(
                    f"{_shown(name, body[name])} is not supported by this server", param=name
                )
        holder = f"{self.within}." if self.within else ""
        for name, value in body.items():
            if name in known or name in self.refused or name in self.without_effect:
                continue
            if name not in self.left_out:
                warnings.add(f"{holder}{name[:LONGEST_NAME]}: unknown field, ignored")
            elif not _is_among(value, self.left_out[name]):
                warnings.add(f"{holder}{name}: not supported by this server, left out")


def _shown(name: str, value: object) -> str:
    """Return a field's name, with its value if that is short."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return f"{name}={value!r:.{LONGEST_NAME}}"
    return name


def _is_among(value: object, harmless: tuple[Any, ...]) -> bool:
    # 0 == False in Python, but a client that sends 0 asks for something else.
    return any(
        type(value) is type(candidate) and cast("object", candidate) == value
        for candidate in harmless
    )


_WITHOUT_EFFECT: Final = frozenset(
    {
        "metadata", "prediction", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "safety_identifier", "service_tier", "store", "user",
        # of vLLM and llama.cpp: how an answer is computed, not what it is
        "cache_prompt", "cache_salt", "id_slot", "request_id", "return_progress", "slot_id",
        "timings_per_token",
    }
)  # fmt: skip

_REFUSED: Final = dict.fromkeys(
    (
        "allowed_token_ids",
        "bad_words",
        "include_stop_str_in_output",
        "logits_processors",
        "truncate_prompt_tokens",
        "use_beam_search",
    ),
    NOTHING,
) | {
    "length_penalty": (None, 1, 1.0),
    "skip_special_tokens": (None, True),
    # llama.cpp's samplers, by the values that turn them off
    "dry_multiplier": (None, 0, 0.0),
    "dynatemp_range": (None, 0, 0.0),
    "mirostat": (None, 0),
    "top_n_sigma": (None, -1, -1.0, 0, 0.0),
    "typical_p": (None, 1, 1.0),
    "xtc_probability": (None, 0, 0.0),
}

_LEFT_OUT: Final = dict.fromkeys(
    (
        "logprob_token_ids",
        "moderation",
        "prompt_logprobs",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "thinking_token_budget",
    ),
    NOTHING,
) | {"n_probs": (None, 0)}
"""What these add to an answer, or bound in it, is seen to be missing."""

CHAT: Final = Rule(
    refused={
        **_REFUSED,
        "chat_template": NOTHING,
        "documents": NOTHING,
        "modalities": (*NOTHING, ["text"]),
    },
    left_out={
        **_LEFT_OUT,
        "add_special_tokens": (None, False),
        "audio": NOTHING,
        "echo": NOTHING,
        "suffix": NOTHING,
        "web_search_options": (None,),
    },
    without_effect=_WITHOUT_EFFECT | {"verbosity"},
)

COMPLETION: Final = Rule(
    refused={**_REFUSED, "prompt_embeds": NOTHING},
    left_out={
        **_LEFT_OUT,
        "function_call": (*NOTHING, "none", "auto"),
        "functions": NOTHING,
        "max_completion_tokens": (None,),
        "reasoning_effort": (None,),
        "tool_choice": (*NOTHING, "none", "auto"),
        "tools": NOTHING,
    },
    without_effect=_WITHOUT_EFFECT,
)
