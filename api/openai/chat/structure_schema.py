"""What clients may send about an answer's form and about tools."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_CHOICES: Final = 10_000
MAX_PATTERN: Final = 100_000
MAX_TOOLS: Final = 512
FUNCTION_NAME: Final = r"^[A-Za-z0-9_.-]{1,256}$"


class Part(BaseModel):
    """Read as strictly as the bodies that hold it."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())


class JsonSchemaFormat(Part):
    """`response_format.json_schema`."""

    name: str | None = Field(default=None, min_length=1, max_length=200)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextFormat(Part):
    """No form."""

    type: Literal["text"]


class JsonObjectFormat(Part):
    """Any JSON object; with llama.cpp's `schema`, JSON by that."""

    type: Literal["json_object"]
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class JsonSchemaResponseFormat(Part):
    """JSON by a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchemaFormat


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaResponseFormat, Field(discriminator="type")
]

JsonSchema = dict[str, Any] | str
Pattern = Annotated[str, Field(min_length=1, max_length=MAX_PATTERN)]
Choices = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_PATTERN)]],
    Field(min_length=1, max_length=MAX_CHOICES),
]


class StructuredOutputs(Part):
    """vLLM's `structured_outputs`; exactly one is set."""

    json_: JsonSchema | None = Field(default=None, alias="json")
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: Pattern | None = None
    json_object: bool | None = None


class FunctionDefinition(Part):
    """A function that the model may call."""

    name: str = Field(pattern=FUNCTION_NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Part):
    """A tool whose calls have arguments in JSON."""

    type: Literal["function"]
    function: FunctionDefinition

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.name


class CustomGrammar(Part):
    """The grammar of a custom tool's input."""

    syntax: Literal["lark", "regex"]
    definition: Pattern


class GrammarFormat(Part):
    """An input that a grammar describes."""

    type: Literal["grammar"]
    grammar: CustomGrammar


CustomFormat = Annotated[TextFormat | GrammarFormat, Field(discriminator="type")]


class CustomDefinition(Part):
    """A tool whose input is text."""

    name: str = Field(pattern=FUNCTION_NAME)
    description: str | None = None
    format: CustomFormat | None = None


class CustomTool(Part):
    """A tool whose calls have text as their input."""

    type: Literal["custom"]
    custom: CustomDefinition

    @property
    def name(self) -> str:
        """The tool's name."""
        return self.custom.name


Tool = Annotated[FunctionTool | CustomTool, Field(discriminator="type")]
"""One of `tools`."""


class ToolName(Part):
    """Which tool."""

    name: str


class NamedFunction(Part):
    """`tool_choice`: this function has to be called."""

    type: Literal["function"]
    function: ToolName

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.name


class NamedCustom(Part):
    """`tool_choice`: this custom tool has to be called."""

    type: Literal["custom"]
    custom: ToolName

    @property
    def name(self) -> str:
        """The tool's name."""
        return self.custom.name


NamedTool = NamedFunction | NamedCustom
ToolChoice = Literal["none", "auto", "required"] | NamedTool
