"""A model's tokenizer and chat template, as the worker's threads use them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, assert_never, cast

from penstock.contract.job import ChatPrompt, TextPrompt, TokenPrompt
from penstock.errors import InvalidParameter, ModelNotLoadable
from penstock.models import checkpoint, messages
from penstock.models.libraries import transformers
from penstock.models.spec import read_config

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from penstock.contract.job import Prompt
    from penstock.models.spec import ModelSpec

CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

PLAIN = """\
{%- for message in messages %}
{{- message.role + ': ' + message.content }}
{%- if not loop.last or add_generation_prompt %}{{- '\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant:' }}{%- endif %}
"""


class Tokenizer:
    """Text to token ids and back. Safe from several threads: nothing of it changes."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        vocab_size: int,
        eos_token_ids: Iterable[int] = (),
        chat_template: str | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._template: str | None = chat_template or _own_template(tokenizer)
        self.has_chat_template = self._template is not None
        self.vocab_size = vocab_size
        own = tokenizer.eos_token_id
        self.eos_token_ids = frozenset((*eos_token_ids, *(() if own is None else (int(own),))))

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt.

        :raises InvalidParameter: an id outside the vocabulary, or what `render` raises.
        """
        match prompt:
            case TokenPrompt(token_ids):
                return self._checked(token_ids)
            case TextPrompt(text, add_special_tokens):
                return self._encode(text, special=add_special_tokens)
            case ChatPrompt():
                text = self.render(prompt)
                # A template writes BOS itself, where the model wants one.
                return self._encode(text, special=False)
            case _:
                assert_never(prompt)

    def render(self, prompt: ChatPrompt) -> str:
        """The text that the model sees for a chat.

        :raises InvalidParameter: the template refuses the messages, or fails on them.
        """
        conversation = [messages.flattened(message) for message in prompt.messages]
        reserved = _RESERVED.intersection(prompt.template_kwargs)
        if reserved:
            raise InvalidParameter(
                f"chat_template_kwargs may not set {', '.join(sorted(reserved))}",
                param="chat_template_kwargs",
            )
        if prompt.continue_final_message and prompt.add_generation_prompt:
            raise InvalidParameter(
                "continue_final_message and add_generation_prompt exclude each other",
                param="continue_final_message",
            )
        try:
            rendered: str = self._tokenizer.apply_chat_template(
                conversation,
                tools=list(prompt.tools) or None,
                chat_template=self._template or self._default_template(),
                add_generation_prompt=prompt.add_generation_prompt,
                continue_final_message=prompt.continue_final_message,
                tokenize=False,
                **prompt.template_kwargs,
            )
        except Exception as error:
            # A template is a program of the model's makers: whatever it raises is its answer to
            # these messages (jinja's errors, KeyError, TypeError ...).
            reason = checkpoint.first_line(error)
            raise InvalidParameter(
                f"the model's chat template refuses these messages: {reason}", param="messages"
            ) from error
        return rendered

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens skipped.

        :raises InvalidParameter: an id outside the vocabulary.
        """
        return self._tokenizer.decode(
            self._checked(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def token_text(self, token_id: int) -> str:
        """Text of one token, special ones too (for log probabilities)."""
        return self._tokenizer.decode(
            [token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def _encode(self, text: str, *, special: bool) -> list[int]:
        try:
            return [
                int(token) for token in self._tokenizer.encode(text, add_special_tokens=special)
            ]
        except (UnicodeError, TypeError) as error:  # lone surrogates
            raise InvalidParameter(
                f"the text cannot be tokenised: {checkpoint.first_line(error)}", param="prompt"
            ) from error

    def _checked(self, token_ids: Sequence[int]) -> list[int]:
        for token in token_ids:
            if not 0 <= token < self.vocab_size:
                raise InvalidParameter(
                    f"token id {token} is not in the vocabulary (0 to {self.vocab_size - 1})",
                    param="prompt",
                )
        return list(token_ids)

    def _default_template(self) -> str:
        """ChatML where the tokenizer knows it, else plain lines of `role: text`."""
        vocabulary: dict[str, int] = self._tokenizer.get_added_vocab()
        return CHATML if "<|im_start|>" in vocabulary else PLAIN


_RESERVED = frozenset(
    (
        "conversation",
        "messages",
        "tools",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    )
)


_FILES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json", "merges.txt")


def load(spec: ModelSpec, vocab_size: int) -> Tokenizer:
    """The tokenizer in a model's folder.

    :raises ModelNotLoadable: there is none, or it needs code of its own that is not allowed.
    """
    if not spec.trust_remote_code and not any(any(spec.path.glob(name)) for name in _FILES):
        # Transformers would make an empty one.
        raise ModelNotLoadable(f"{spec.path}: there is no tokenizer (tokenizer.json or the like)")
    library = transformers()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokenizer = library.AutoTokenizer.from_pretrained(
                spec.path, local_files_only=True, trust_remote_code=spec.trust_remote_code
            )
    except Exception as error:
        raise ModelNotLoadable(f"{spec.path}: tokenizer: {checkpoint.first_line(error)}") from error
    return Tokenizer(
        tokenizer,
        vocab_size=vocab_size,
        eos_token_ids=eos_token_ids(spec),
        chat_template=spec.chat_template,
    )


def eos_token_ids(spec: ModelSpec) -> tuple[int, ...]:
    """What ends a text by the model's own files: generation_config.json, else config.json."""
    for name in ("generation_config.json", "config.json"):
        value = read_config(spec.path, name).get("eos_token_id")
        values = cast("list[Any]", value) if isinstance(value, list) else [value]
        found = tuple(token for token in values if isinstance(token, int))
        if found:
            return found
    return ()


def _own_template(tokenizer: Any) -> str | None:
    """The tokenizer's template; of several named ones the default."""
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):
        named = cast("dict[str, str]", template)
        return named.get("default") or next(iter(named.values()), None)
    return template or None
