"""A model's tokenizer and chat template, as used by the worker's threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, assert_never

from penstock.contract.job import (
    TO_CONTEXT,
    WHOLE,
    ChatPrompt,
    FillPrompt,
    PairPrompt,
    TextPrompt,
    TokenPrompt,
)
from penstock.engine.text.detokenizer import REPLACEMENT
from penstock.errors import InvalidParameter, UnsupportedFeature
from penstock.models.loading import checkpoint
from penstock.models.structured.grammar import GrammarCompiler
from penstock.models.text import chat_template as chat_templates
from penstock.models.text import fill_in_middle, rendering, token_bytes
from penstock.models.text.chat_template import ChatTemplates
from penstock.models.text.dialect import Dialect, Reasoning
from penstock.models.text.encoding import Encoder
from penstock.models.text.plain_markers import PlainMarkers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from penstock.contract.job import Prompt
    from penstock.contract.structure import Structure
    from penstock.engine.sampling.constraint import Constraint
    from penstock.models.text.dialect import ToolParser
    from penstock.models.text.fastchat_templates import Template

_TAIL: Final = 8
"""Tokens at a prompt's end that are searched for a marker which opens the answer's reasoning."""


class Tokenizer:
    """Text to token ids and back. Thread-safe, except for `constrain`.

    Once `most_tokens` is set, prompts have a limit of characters: a prompt that cannot fit is
    refused before it is tokenised, and a template is ended when its text becomes too long.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        vocab_size: int,
        eos_token_ids: Iterable[int] = (),
        chat_template: str | None = None,
        tool_parser: ToolParser | None = None,
        model_type: str = "",
        named: Template | None = None,
        markers_as_text: bool = True,
        context_length: int | None = None,
        lower_case: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._encoder = Encoder(tokenizer)
        self._context_length = self.most_tokens = context_length
        self._lower_case = lower_case
        self._grammars: GrammarCompiler | None = None
        default, for_tools = chat_template or None, None
        if default is None:
            default, for_tools = chat_templates.own(tokenizer)
        self.stop_strings: tuple[str, ...] = ()
        if default is None and named is not None:
            default, self.stop_strings = named.jinja, named.stop
        self.has_chat_template = default is not None
        self._chats = ChatTemplates(
            default or chat_templates.default(tokenizer),
            for_tools,
            dict(tokenizer.special_tokens_map),
            tool_parser=tool_parser,
            model_type=model_type,
        )
        self._plain = PlainMarkers(tokenizer) if markers_as_text else None
        self.vocab_size = vocab_size
        own = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
        self.eos_token_ids = frozenset((*eos_token_ids, *own))
        self.dialect: Dialect = self._chats.dialect
        self._hidden = self._hidden_ids()
        self.fill_in = fill_in_middle.of_tokenizer(tokenizer, self._encoder)

    @property
    def most_tokens(self) -> int | None:
        """The most tokens of a prompt; None if there is no limit."""
        return self._encoder.most_tokens

    @most_tokens.setter
    def most_tokens(self, count: int | None) -> None:
        self._encoder.most_tokens = count

    @property
    def image_token(self) -> str | None:
        """The marker of an image in a rendered chat; None if the model takes none."""
        return self._chats.image_token

    @image_token.setter
    def image_token(self, marker: str) -> None:
        self._chats.image_token = marker

    @property
    def longest_token_chars(self) -> int:
        """An upper bound of one token's characters."""
        return self._encoder.longest_token_chars

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt.

        :raises InvalidParameter: an id is outside the vocabulary, or see `render`.
        :raises ContextOverflow: too many characters, whatever their tokens are.
        :raises UnsupportedFeature: the model cannot fill in the middle.
        """
        match prompt:
            case TokenPrompt(token_ids, truncate):
                return self._checked(token_ids)[: self._bound(truncate)]
            case TextPrompt(text, add_special_tokens, truncate):
                return self._encode(text, special=add_special_tokens, truncate=truncate)
            case PairPrompt():
                return self.encode_pair(prompt)[0]
            case FillPrompt(before, after):
                return self._fill(before, after)
            case ChatPrompt():
                return self.encode_chat(prompt)
            case _:
                assert_never(prompt)

    def encode_pair(self, prompt: PairPrompt) -> tuple[list[int], list[int]]:
        """Return two texts' token ids, and for each id its text: 0 or 1.

        :raises InvalidParameter: they are not text.
        """
        texts = (self._cased(prompt.first), self._cased(prompt.second))
        try:
            return self._encoder.encode_pair(*texts, most=self._bound(prompt.truncate))
        except (UnicodeError, TypeError) as error:
            raise _untokenisable(error) from error

    def render(self, prompt: ChatPrompt) -> str:
        """Return the text of a chat for the model.

        :raises InvalidParameter: the template refuses the messages, fails on them, or exceeds its
            limits of time and memory.
        :raises ContextOverflow: the text has too many characters.
        :raises TakesLong: see `rendering.quickly`.
        """
        try:
            return self._chats.render(prompt, self._encoder.most_characters)
        except rendering.TooManyCharacters as error:
            self._encoder.check(error.length)
            raise

    def encode_chat(self, prompt: ChatPrompt, expanded: Callable[[str], str] = str) -> list[int]:
        """Return a chat's token ids: markers are tokens only where the template writes them.

        `expanded` changes the rendered text, whose users' markers are not intact, before it is
        tokenised.

        :raises InvalidParameter, ContextOverflow: see `encode`.
        """
        masked = None if self._plain is None else self._plain.masked(prompt)
        if self._plain is None or masked is None:
            # A template writes BOS itself, if the model needs one.
            return self._encode(expanded(self.render(prompt)), special=False)
        text = expanded(self.render(masked))
        self._encoder.check(len(text))
        try:
            return self._plain.encode(text)
        except (UnicodeError, TypeError) as error:
            raise _untokenisable(error) from error

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids; of special ones, only those around calls and reasoning.

        :raises InvalidParameter: an id is outside the vocabulary.
        """
        checked = self._checked(token_ids)
        if self._hidden is not None:
            checked = [token for token in checked if token not in self._hidden]
        return self._tokenizer.decode(
            checked, skip_special_tokens=self._hidden is None, clean_up_tokenization_spaces=False
        )

    def pieces(self) -> dict[int, str]:
        """Return every token as the vocabulary has it, by id."""
        return {index: piece for piece, index in self._tokenizer.get_vocab().items()}

    def token_text(self, token_id: int) -> str:
        """Return the text of one token, even a special one (for log probabilities)."""
        text = self._tokenizer.decode(
            [token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return token_bytes.with_spaces(self._tokenizer.convert_ids_to_tokens(token_id), text)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token, which may be a part of a character."""
        text = self.token_text(token_id)
        if REPLACEMENT not in text:
            return text.encode()
        return token_bytes.of_piece(self._tokenizer.convert_ids_to_tokens(token_id), text)

    def reasoning(self, prompt: Prompt, prompt_token_ids: Sequence[int]) -> Reasoning:
        """Return whether the answer to a prompt begins with reasoning."""
        if self.dialect.reasoning is None or not isinstance(prompt, ChatPrompt):
            return Reasoning.NONE
        begin, end = self.dialect.reasoning
        tail = self.decode(prompt_token_ids[-_TAIL:]).rstrip()
        if tail.endswith(begin):
            return Reasoning.OPENED
        return Reasoning.NONE if tail.endswith(end) else Reasoning.POSSIBLE

    def tokens_of(self, texts: Sequence[str]) -> dict[int, str]:
        """Return those texts that are a single added token, such as `<|file_sep|>`, by their ids.

        A special token's text is never emitted, so it could not be found in an answer.
        """
        added: dict[str, int] = self._tokenizer.get_added_vocab() if texts else {}
        return {added[text]: text for text in texts if text in added}

    def constrain(self, structure: Structure, reasoning: Reasoning) -> Constraint:
        """Return a structure's constraint, in its initial state. Not thread-safe.

        :raises InvalidParameter: the structure is not valid.
        :raises UnsupportedFeature: llguidance is missing or cannot use this tokenizer.
        """
        if self._grammars is None:
            backend: Any = getattr(self._tokenizer, "backend_tokenizer", None)
            endings = [token for token in self.eos_token_ids if 0 <= token < self.vocab_size]
            if backend is None or not endings:
                raise UnsupportedFeature("no structured output with this model's tokenizer")
            self._grammars = GrammarCompiler(
                backend.to_str(),
                vocab_size=max(self.vocab_size, len(self._tokenizer)),
                eos_token_ids=endings,
                dialect=self.dialect,
            )
        return self._grammars.begin(structure, reasoning=reasoning)

    def _hidden_ids(self) -> frozenset[int] | None:
        """Special tokens that `decode` skips; None if those are all the special ones.

        A tokenizer's file may declare some that its configuration does not list (gpt-oss).
        """
        added: dict[int, Any] = self._tokenizer.added_tokens_decoder
        ids = {int(token) for token in self._tokenizer.all_special_ids}
        ids.update(int(number) for number, token in added.items() if token.special)
        shown = {token for token in ids if self.dialect.shows(self.token_text(token))}
        return frozenset(ids - shown) if shown else None

    def _encode(self, text: str, *, special: bool, truncate: int = WHOLE) -> list[int]:
        try:
            return self._encoder.encode(
                self._cased(text), add_special_tokens=special, most=self._bound(truncate)
            )
        except (UnicodeError, TypeError) as error:  # lone surrogates
            raise _untokenisable(error) from error

    def _fill(self, before: str, after: str) -> list[int]:
        if self.fill_in is None:
            reason = "the model has no tokens to fill in the middle"
            raise UnsupportedFeature(reason, param="suffix")
        self._encoder.check(len(before) + len(after))
        try:
            return self.fill_in.encode(before, after)
        except (UnicodeError, TypeError) as error:
            raise _untokenisable(error) from error

    @property
    def fill_endings(self) -> tuple[int, ...]:
        """Token ids that end a filled-in text, besides the model's usual endings."""
        return self.fill_in.endings if self.fill_in else ()

    def _bound(self, truncate: int) -> int | None:
        """Return how many tokens of a prompt to keep; None for all."""
        if truncate == WHOLE:
            return None
        if truncate == TO_CONTEXT:
            return self._context_length
        return min(truncate, self._context_length or truncate)

    def _cased(self, text: str) -> str:
        return text.lower() if self._lower_case else text

    def _checked(self, token_ids: Sequence[int]) -> list[int]:
        for token in token_ids:
            if not 0 <= token < self.vocab_size:
                raise InvalidParameter(
                    f"token id {token} is not in the vocabulary (0 to {self.vocab_size - 1})",
                    param="prompt",
                )
        return list(token_ids)


def _untokenisable(error: Exception) -> InvalidParameter:
    reason = checkpoint.first_line(error)
    return InvalidParameter(f"the text cannot be tokenised: {reason}", param="prompt")
