"""Fields that clients may send and that change the answer, but that are not served yet.

Ignoring one of them would give a wrong answer in silence, so each is refused by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from penstock.errors import UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Mapping

NOTHING: Final[tuple[Any, ...]] = (None, False, "", [], {})
"""Values by which a client asks for nothing."""

BOTH: Final[Mapping[str, tuple[Any, ...]]] = dict.fromkeys(
    (
        "allowed_token_ids",
        "bad_words",
        "include_stop_str_in_output",
        "logits_processors",
        "logprob_token_ids",
        "prompt_logprobs",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "thinking_token_budget",
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
    "n_probs": (None, 0),
    "top_n_sigma": (None, -1, -1.0, 0, 0.0),
    "typical_p": (None, 1, 1.0),
    "xtc_probability": (None, 0, 0.0),
}

CHAT: Final[Mapping[str, tuple[Any, ...]]] = {
    **BOTH,
    "audio": NOTHING,
    "chat_template": NOTHING,
    "documents": NOTHING,
    "echo": NOTHING,
    "function_call": (*NOTHING, "none", "auto"),
    "functions": NOTHING,
    "modalities": (*NOTHING, ["text"]),
    "web_search_options": (None,),
}

COMPLETION: Final[Mapping[str, tuple[Any, ...]]] = {
    **BOTH,
    "prompt_embeds": NOTHING,
}


def refuse(body: Mapping[str, object], table: Mapping[str, tuple[Any, ...]]) -> None:
    """Look through the body as it was sent.

    :raises UnsupportedFeature: it asks for something in `table`.
    """
    for name, harmless in table.items():
        if name in body and not _is_among(body[name], harmless):
            shown = body[name] if isinstance(body[name], str | int | float) else None
            what = name if shown is None or isinstance(shown, bool) else f"{name}={shown!r:.60}"
            raise UnsupportedFeature(f"{what} is not supported by this server", param=name)


def _is_among(value: object, harmless: tuple[Any, ...]) -> bool:
    # 0 == False in Python, but a client that sends 0 asks for something else.
    return any(type(value) is type(one) and cast("object", one) == value for one in harmless)
