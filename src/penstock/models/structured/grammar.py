"""Structured output by llguidance: compiles what a client asked for into token masks."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, assert_never, cast

import msgspec

from penstock.contract.structure import (
    ChoiceStructure,
    EitherStructure,
    FreeToolStructure,
    GrammarStructure,
    JsonStructure,
    RegexStructure,
    ToolStructure,
)
from penstock.errors import EngineFailed, InvalidParameter, UnsupportedFeature
from penstock.models.structured import calls, lark, limits
from penstock.models.structured.calls import free_text, rules
from penstock.models.text import vocabulary
from penstock.models.text.dialect import Reasoning

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from penstock.contract.structure import AnswerStructure, Structure
    from penstock.models.text.dialect import Dialect

_REMEMBERED: Final = 128
"""Most compiled grammars of a model that are kept."""


class GrammarConstraint:
    """One sequence's state in a grammar; see `penstock.engine.sampling.constraint.Constraint`.

    `noun` is what a client calls the grammar.
    """

    def __init__(self, matcher: Any, noun: str) -> None:
        self._matcher = matcher
        self._noun = noun

    @property
    def complete(self) -> bool:
        """Whether the answer is complete, so that nothing may follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def mask(self, ahead: Sequence[int] = ()) -> bytes:
        """Return one bit for each token, lowest first; see `Constraint`.

        :raises UnsupportedFeature: the grammar is too complex to continue.
        """
        matcher = self._matcher
        if ahead:
            if matcher.validate_tokens(list(ahead)) < len(ahead):
                return b""
            matcher = matcher.deep_copy()
            matcher.consume_tokens(list(ahead))
            mask = cast("bytes", matcher.compute_bitmask())
            return b"" if matcher.is_error() else mask
        mask = cast("bytes", matcher.compute_bitmask())
        if matcher.is_error():
            raise self._too_complex()
        return mask

    def advance(self, token_id: int) -> None:
        """Advance by a token.

        :raises UnsupportedFeature: the grammar is too complex to continue.
        :raises EngineFailed: the token does not fit.
        """
        if self._matcher.consume_token(token_id):
            return
        error = str(self._matcher.get_error())
        if limits.is_too_complex(error):
            raise self._too_complex()
        raise EngineFailed(
            f"token {token_id} does not fit the answer's form: {limits.shortened(error)}"
        )

    def _too_complex(self) -> UnsupportedFeature:
        error = limits.explained(str(self._matcher.get_error()), self._noun)
        return UnsupportedFeature(error, param="structure")


class GrammarCompiler:
    """Compiles structures for one tokenizer and caches them. Not thread-safe."""

    def __init__(
        self,
        tokenizer_json: str,
        *,
        vocab_size: int,
        eos_token_ids: Iterable[int],
        dialect: Dialect,
    ) -> None:
        """Read the vocabulary, in some tens of milliseconds, or a second for a large one.

        :raises UnsupportedFeature: llguidance is not installed, or cannot read this tokenizer.
        """
        try:
            self._library: Any = importlib.import_module("llguidance")
        except ImportError as error:
            raise UnsupportedFeature("structured output needs llguidance on the worker") from error
        try:
            self._tokenizer = vocabulary.read(
                self._library, tokenizer_json, vocab_size=vocab_size, eos_token_ids=eos_token_ids
            )
        except Exception as error:
            raise UnsupportedFeature(
                f"no structured output with this model's tokenizer: {limits.shortened(str(error))}"
            ) from error
        self._dialect = dialect
        self._eos_token_ids = frozenset(eos_token_ids)
        self._markers = vocabulary.markers(tokenizer_json)
        self._limits = limits.limits(self._library)
        self._compiled: OrderedDict[bytes, Any] = OrderedDict()

    def begin(self, structure: Structure, *, reasoning: Reasoning) -> GrammarConstraint:
        """Return a constraint in its initial state; compiles the structure unless it is cached.

        A structure applies to what follows the model's reasoning.

        :raises InvalidParameter: the structure is not valid.
        """
        key = msgspec.json.encode((structure, reasoning))
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compile(self._grammars(structure, reasoning), limits.noun(structure))
            if len(self._compiled) >= _REMEMBERED:
                self._compiled.popitem(last=False)
            self._compiled[key] = compiled
        self._compiled.move_to_end(key)
        return GrammarConstraint(compiled.deep_copy(), limits.noun(structure))

    def _grammars(self, structure: Structure, reasoning: Reasoning) -> list[dict[str, Any]]:
        """Return llguidance's grammars; the first is that of the entire answer."""
        body, bodies = self._bodies(structure)
        if self._dialect.reasoning is None or reasoning is Reasoning.NONE:
            plain = len(bodies) == 1 and body == f"@{bodies[0]['name']}"
            return bodies if plain else [{"lark_grammar": f"start: {body}"}, *bodies]
        start = lark.after_reasoning(
            self._dialect, self._markers, opened=reasoning is Reasoning.OPENED, body="body"
        )
        return [{"lark_grammar": f"{start}\nbody: {body}"}, *bodies]

    def _bodies(self, structure: Structure) -> tuple[str, list[dict[str, Any]]]:
        """Return what follows the reasoning, and the grammars that it names."""
        if isinstance(structure, ToolStructure | FreeToolStructure):
            return "@calls", [{**self._body(structure), "name": "calls"}]
        answer = structure.answer if isinstance(structure, EitherStructure) else structure
        bodies = [{**self._body(answer), "name": "answer"}]
        body = lark.wrapped(self._dialect, self._markers, "@answer")
        if not isinstance(structure, EitherStructure):
            return body, bodies
        return f"@calls | {body}", [*bodies, {**self._body(structure.calls), "name": "calls"}]

    def _body(
        self, structure: AnswerStructure | ToolStructure | FreeToolStructure
    ) -> dict[str, Any]:
        match structure:
            case JsonStructure(schema, lenient):
                return {"json_schema": rules.with_options(schema, lenient)}
            case RegexStructure(pattern):
                return {"lark_grammar": lark.of_regex(self._library, pattern)}
            case ChoiceStructure(choices):
                return {"lark_grammar": lark.of_choices(choices)}
            case GrammarStructure(grammar):
                return {"lark_grammar": lark.of_grammar(grammar)}
            case ToolStructure():
                grammar = calls.grammar(structure, self._dialect.tool_parser, self._markers)
                return {"lark_grammar": grammar}
            case FreeToolStructure(functions):
                tokens = [
                    token_id
                    for token_id in self._markers.values()
                    if token_id not in self._eos_token_ids
                ]
                grammar = free_text.grammar(
                    functions, self._dialect.tool_parser, self._markers, tokens
                )
                return {"lark_grammar": grammar}
            case _:
                assert_never(structure)

    def _compile(self, grammars: list[dict[str, Any]], noun: str) -> Any:
        matcher = self._library.LLMatcher(
            self._tokenizer,
            msgspec.json.encode({"grammars": grammars}).decode(),
            log_level=0,
            limits=self._limits,
        )
        mask = cast("bytes", matcher.compute_bitmask())
        if matcher.is_error():
            raise InvalidParameter(limits.explained(str(matcher.get_error()), noun))
        if not any(mask):
            raise InvalidParameter(f"{noun} allows no text")
        return matcher
