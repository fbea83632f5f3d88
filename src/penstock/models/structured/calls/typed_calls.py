"""Calls that write each argument separately: in tags, as Python, or in Gemma's notation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from penstock.errors import InvalidParameter
from penstock.models.structured.calls.notations import Literals, MarkedQuotes, PythonQuotes, Tagged
from penstock.models.structured.calls.rules import in_order, parameters

if TYPE_CHECKING:
    from penstock.contract.structure import ToolFunction, ToolStructure
    from penstock.models.structured.calls.notations import Notation
    from penstock.models.structured.calls.rules import Rules

_WRITTEN: Final = re.compile(r"[\w.@$-]{1,128}")
"""Names of parameters that are written without quotes."""


@dataclass(frozen=True, slots=True)
class TypedCalls:
    """Calls with their arguments in the schema's order, `comma` between two.

    NAME in `begin` is the function's name. `before` precedes all calls, `between` separates two,
    `behind` follows all.
    """

    notation: Notation
    begin: str
    end: str
    before: str = ""
    between: str = ""
    behind: str = ""
    comma: str = ""

    def write(self, rules: Rules, structure: ToolStructure) -> None:
        """Add the rules of calls, beginning with `start`."""
        calls = [
            rules.add(f"call_{index}", self._call(rules, index, function))
            for index, function in enumerate(structure.functions)
        ]
        call = rules.add("call", " | ".join(calls))
        parts = [rules.literal(self.before), call]
        if structure.parallel:
            parts.append(f"({rules.literal(self.between)} {call})*")
        parts.append(rules.literal(self.behind))
        rules.add("start", " ".join(filter(None, parts)))

    @property
    def head(self) -> str:
        """The part of a call before its arguments."""
        return self.begin

    def _call(self, rules: Rules, index: int, function: ToolFunction) -> str:
        begin = rules.literal(self.head.replace("NAME", function.name))
        return f"{begin} {self.rest(rules, index, function)}"

    def rest(self, rules: Rules, index: int, function: ToolFunction) -> str:
        """Return the rule body of a call's arguments and what follows; rules are named by `index`.

        :raises InvalidParameter: the dialect cannot write one of the parameters.
        """
        named, is_open = parameters(function)
        unwritten = next(
            (parameter.name for parameter in named if not _WRITTEN.fullmatch(parameter.name)),
            None,
        )
        if unwritten is not None:
            raise InvalidParameter(f"this model cannot write a parameter named {unwritten[:64]!r}")
        written = [
            self.notation.argument(rules, f"argument_{index}_{number}", parameter)
            for number, parameter in enumerate(named)
        ]
        more = self.notation.any_argument(rules) if is_open else ""
        body = in_order(named, written, more, rules.literal(self.comma))
        return " ".join(filter(None, (body, rules.literal(self.end))))


_PYTHON: Final = Literals(PythonQuotes(), "=", ", ", ": ", ("True", "False", "None"))
_JSON_WORDS: Final = ("true", "false", "null")
_GEMMA4: Final = Literals(MarkedQuotes('<|"|>'), ":", ",", ":", _JSON_WORDS)
_FUNCTIONGEMMA: Final = Literals(MarkedQuotes("<escape>"), ":", ",", ":", _JSON_WORDS)


_QWEN: Final = Tagged("<parameter=KEY>\n", "\n</parameter>\n")
_SEED: Final = Tagged("<parameter=KEY>", "</parameter>\n")
_GLM: Final = Tagged("<arg_key>KEY</arg_key>\n<arg_value>", "</arg_value>\n")
_INVOKED: Final = Tagged('<parameter name="KEY">', "</parameter>\n")
_DSML: Final = Tagged('<｜DSML｜parameter name="KEY" string="IS_TEXT">', "</｜DSML｜parameter>\n")

TYPED_CALLS: Final = {
    "qwen3_coder": TypedCalls(
        _QWEN, "<tool_call>\n<function=NAME>\n", "</function>\n</tool_call>", between="\n"
    ),
    "seed_oss": TypedCalls(
        _SEED, "<seed:tool_call>\n<function=NAME>\n", "</function>\n</seed:tool_call>", between="\n"
    ),
    "glm45": TypedCalls(_GLM, "<tool_call>NAME\n", "</tool_call>", between="\n"),
    "minimax_m2": TypedCalls(
        _INVOKED,
        '<invoke name="NAME">\n',
        "</invoke>\n",
        before="<minimax:tool_call>\n",
        behind="</minimax:tool_call>",
    ),
    "deepseek_v32": TypedCalls(
        _DSML,
        '<｜DSML｜invoke name="NAME">\n',
        "</｜DSML｜invoke>\n",
        before="<｜DSML｜function_calls>\n",
        behind="</｜DSML｜function_calls>",
    ),
    "pythonic": TypedCalls(_PYTHON, "NAME(", ")", before="[", between=", ", behind="]", comma=", "),
    "lfm2": TypedCalls(
        _PYTHON,
        "NAME(",
        ")",
        before="<|tool_call_start|>[",
        between=", ",
        behind="]<|tool_call_end|>",
        comma=", ",
    ),
    "gemma3": TypedCalls(
        _PYTHON, "NAME(", ")", before="```tool_code\n", between="\n", behind="\n```", comma=", "
    ),
    "gemma4": TypedCalls(_GEMMA4, "<|tool_call>call:NAME{", "}<tool_call|>", comma=","),
    "functiongemma": TypedCalls(
        _FUNCTIONGEMMA,
        "<start_function_call>call:NAME{",
        "}<end_function_call>",
        comma=",",
    ),
}
"""By the dialect's name."""
