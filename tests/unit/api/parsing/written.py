"""Calls as the templates of each family write them: what its models were trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Arguments = dict[str, Any]
Calls = Sequence[tuple[str, Arguments]]


def dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def bare(value: Any) -> str:
    return value if isinstance(value, str) else dumped(value)


def named(name: str, arguments: Arguments, key: str = "arguments") -> str:
    return f'{{"name": "{name}", "{key}": {dumped(arguments)}}}'


def objects(calls: Calls, key: str = "arguments") -> list[str]:
    return [named(*call, key) for call in calls]


def xml(name: str, arguments: Arguments, begin: str = "<tool_call>", line: str = "\n") -> str:
    parameters = "".join(
        f"<parameter={key}>{line}{bare(value)}{line}</parameter>\n"
        for key, value in arguments.items()
    )
    end = begin.replace("<", "</")
    return f"{begin}\n<function={name}>\n{parameters}</function>\n{end}"


def glm(name: str, arguments: Arguments, line: str = "\n") -> str:
    pairs = "".join(
        f"<arg_key>{key}</arg_key>{line}<arg_value>{bare(value)}</arg_value>{line}"
        for key, value in arguments.items()
    )
    return f"<tool_call>{name}{line}{pairs}</tool_call>"


def invoked(name: str, arguments: Arguments, prefix: str = "") -> str:
    parameters = "".join(
        f'<{prefix}parameter name="{key}"'
        + (f' string="{str(isinstance(value, str)).lower()}"' if prefix else "")
        + f">{bare(value)}</{prefix}parameter>\n"
        for key, value in arguments.items()
    )
    return f'<{prefix}invoke name="{name}">\n{parameters}</{prefix}invoke>\n'


def python(name: str, arguments: Arguments) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def gemma(value: Any, quote: str) -> str:
    match value:
        case str():
            return f"{quote}{value}{quote}"
        case dict():
            pairs = (f"{quote}{key}{quote}:{gemma(inner, quote)}" for key, inner in value.items())
            return f"{{{','.join(pairs)}}}"
        case list():
            return f"[{','.join(gemma(inner, quote) for inner in value)}]"
        case _:
            return dumped(value)


def gemma_call(name: str, arguments: Arguments, quote: str = '<|"|>') -> str:
    pairs = ",".join(f"{key}:{gemma(value, quote)}" for key, value in arguments.items())
    return f"call:{name}{{{pairs}}}"


def cohere(calls: Calls) -> str:
    lines = (
        f'    {{"tool_call_id": "{index}", "tool_name": "{name}", "parameters": {dumped(arguments)}}}'
        for index, (name, arguments) in enumerate(calls)
    )
    return ",\n".join(lines)


def kimi(index: int, name: str, arguments: Arguments) -> str:
    return (
        f"<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>"
        f"{dumped(arguments)}<|tool_call_end|>"
    )


def deepseek_v3(name: str, arguments: Arguments) -> str:
    return (
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{dumped(arguments)}\n```"
        "<｜tool▁call▁end｜>"
    )


def deepseek_v31(name: str, arguments: Arguments) -> str:
    return f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{dumped(arguments)}<｜tool▁call▁end｜>"


def between(begin: str, inner: str, end: str) -> str:
    return f"{begin}{inner}{end}"


DEEPSEEK = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
HARMONY = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}"


def written(dialect: str, calls: Calls) -> str:  # noqa: C901, PLR0911, PLR0912 - a table
    """Return calls as a family's template writes them; a comma in `dialect` begins a variant."""
    match dialect:
        case "hermes":
            return "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in objects(calls))
        case "llama3_json":
            return "; ".join(objects(calls, "parameters"))
        case "mistral":
            return f"[TOOL_CALLS][{', '.join(objects(calls))}]"
        case "mistral_args":
            return "".join(f"[TOOL_CALLS]{name}[ARGS]{dumped(inner)}" for name, inner in calls)
        case "deepseek_v3":
            return between(DEEPSEEK[0], "\n".join(deepseek_v3(*one) for one in calls), DEEPSEEK[1])
        case "deepseek_v31":
            return between(DEEPSEEK[0], "".join(deepseek_v31(*one) for one in calls), DEEPSEEK[1])
        case "deepseek_v32":
            inner = "".join(invoked(*one, "｜DSML｜") for one in calls)
            return f"<｜DSML｜function_calls>\n{inner}</｜DSML｜function_calls>"
        case "kimi_k2":
            inner = "".join(kimi(index, *one) for index, one in enumerate(calls))
            return f"<|tool_calls_section_begin|>{inner}<|tool_calls_section_end|>"
        case "granite":
            return f"<|tool_call|>[{', '.join(objects(calls))}]"
        case "phi4":
            return f"<|tool_call|>[{', '.join(objects(calls))}]<|/tool_call|>"
        case "phi4_mini":
            return f"functools[{', '.join(objects(calls))}]"
        case "command":
            return f"<|START_ACTION|>[\n{cohere(calls)}\n]<|END_ACTION|>"
        case "nemotron":
            return f"<TOOLCALL>[{', '.join(objects(calls))}]</TOOLCALL>"
        case "internlm":
            return "".join(
                f"<|action_start|><|plugin|>\n{one}<|action_end|>"
                for one in objects(calls, "parameters")
            )
        case "lfm2, json":
            return f"<|tool_call_start|>[{', '.join(objects(calls))}]<|tool_call_end|>"
        case "glm4":
            return "<|observation|>".join(f"{name}\n{dumped(inner)}" for name, inner in calls)
        case "harmony":
            return "<|call|><|start|>assistant".join(
                HARMONY.format(name, dumped(inner)) for name, inner in calls
            )
        case "qwen3_coder":
            return "\n".join(xml(*one) for one in calls)
        case "seed_oss":
            return "\n".join(xml(*one, "<seed:tool_call>", "") for one in calls)
        case "glm45":
            return "\n".join(glm(*one) for one in calls)
        case "glm45, one line":
            return "".join(glm(*one, "") for one in calls)
        case "minimax_m2":
            inner = "".join(invoked(*one) for one in calls)
            return f"<minimax:tool_call>\n{inner}</minimax:tool_call>"
        case "pythonic" | "gemma3, list":
            return f"[{', '.join(python(*one) for one in calls)}]"
        case "gemma3":
            inner = "\n".join(python(*one) for one in calls)
            return f"```tool_code\n{inner}\n```"
        case "lfm2":
            inner = ", ".join(python(*one) for one in calls)
            return f"<|tool_call_start|>[{inner}]<|tool_call_end|>"
        case "gemma4":
            return "".join(f"<|tool_call>{gemma_call(*one)}<tool_call|>" for one in calls)
        case "functiongemma":
            return "".join(
                f"<start_function_call>{gemma_call(*one, '<escape>')}<end_function_call>"
                for one in calls
            )
        case _:
            raise ValueError(dialect)
