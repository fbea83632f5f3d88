"""The form that a request asks of its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from api.openai.chat.structure_schema import JsonObjectFormat, JsonSchemaResponseFormat
from penstock.contract.structure import (
    ChoiceStructure,
    GrammarStructure,
    JsonStructure,
    RegexStructure,
)
from penstock.errors import InvalidParameter, UnsupportedFeature
from penstock.foreign import parse_json

if TYPE_CHECKING:
    from api.openai.schema import GenerationRequest
    from penstock.contract.structure import AnswerStructure
    from penstock.contract.worker import ModelCard

CAPABILITY: Final = "structure"
ANY_OBJECT: Final[dict[str, Any]] = {"type": "object"}

Form = tuple[str, "AnswerStructure"]
"""The field that asks for a structure, and the structure."""


def form_of(asked: GenerationRequest) -> Form | None:
    """Return the form that a request asks for, if any.

    :raises InvalidParameter: it asks for several, or in a way that makes no sense.
    """
    forms = [*_response_format(asked), *_guided(asked), *_structured_outputs(asked)]
    if len(forms) > 1:
        names = " and ".join(param for param, _ in forms)
        raise InvalidParameter(f"{names} exclude each other", param=forms[1][0])
    return forms[0] if forms else None


def check(param: str, asked: GenerationRequest, card: ModelCard) -> None:
    """Check that this model and the other parameters allow for the form that `param` asks for.

    :raises UnsupportedFeature: the model's worker has no structured output.
    :raises InvalidParameter: `ignore_eos` asks for a text without an end.
    """
    if CAPABILITY not in card.capabilities:
        raise UnsupportedFeature(f"{card.name} gives no structured answers", param=param)
    if asked.ignore_eos:
        raise InvalidParameter(f"ignore_eos excludes {param}", param="ignore_eos")


def _response_format(asked: GenerationRequest) -> list[Form]:
    match asked.response_format:
        case JsonObjectFormat(schema_=schema):
            return [("response_format", JsonStructure(schema or ANY_OBJECT))]
        case JsonSchemaResponseFormat(json_schema=wanted):
            if wanted.schema_ is None:
                return [("response_format", JsonStructure(ANY_OBJECT))]
            lenient = not wanted.strict
            return [("response_format", JsonStructure(wanted.schema_, lenient=lenient))]
        case _:
            return []


def _guided(asked: GenerationRequest) -> list[Form]:
    forms: list[Form] = []
    for name, schema in (("guided_json", asked.guided_json), ("json_schema", asked.json_schema)):
        if schema is not None:
            forms.append((name, _json(schema, name)))
    if asked.guided_regex is not None:
        forms.append(("guided_regex", RegexStructure(asked.guided_regex)))
    if asked.guided_choice is not None:
        forms.append(("guided_choice", ChoiceStructure(tuple(asked.guided_choice))))
    for name, grammar in (("guided_grammar", asked.guided_grammar), ("grammar", asked.grammar)):
        if grammar is not None:
            forms.append((name, GrammarStructure(grammar)))
    return forms


def _structured_outputs(asked: GenerationRequest) -> list[Form]:
    wanted, forms = asked.structured_outputs, list[Form]()
    if wanted is None:
        return forms
    param = "structured_outputs"
    if wanted.json_ is not None:
        forms.append((f"{param}.json", _json(wanted.json_, f"{param}.json")))
    if wanted.regex is not None:
        forms.append((f"{param}.regex", RegexStructure(wanted.regex)))
    if wanted.choice is not None:
        forms.append((f"{param}.choice", ChoiceStructure(tuple(wanted.choice))))
    if wanted.grammar is not None:
        forms.append((f"{param}.grammar", GrammarStructure(wanted.grammar)))
    if wanted.json_object:
        forms.append((f"{param}.json_object", JsonStructure(ANY_OBJECT)))
    if not forms:
        raise InvalidParameter(
            f"{param}: one of json, regex, choice, grammar and json_object is needed", param=param
        )
    return forms


def _json(schema: dict[str, Any] | str, param: str) -> JsonStructure:
    """Return the structure of a schema, which some clients send as text."""
    if isinstance(schema, str):
        try:
            schema = parse_json(schema)
        except ValueError as error:
            raise InvalidParameter(f"{param}: {error}", param=param) from error
        if not isinstance(schema, dict):
            raise InvalidParameter(f"{param}: must be a JSON schema", param=param)
    return JsonStructure(schema)
