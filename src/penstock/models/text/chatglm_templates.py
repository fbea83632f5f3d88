"""Chats in the formats in which ChatGLM2, ChatGLM3 and GLM-4 were trained, as Jinja templates."""

# ruff: noqa: RUF001 - Chinese punctuation
from __future__ import annotations

from typing import Final

SECOND: Final = """\
[gMASK]sop{% set turn = namespace(number=1) %}
{%- for message in messages %}
{%- if message.role in ['system', 'developer'] %}
{{- message.content + '\\n\\n' }}
{%- elif message.role == 'user' %}
{{- '[Round ' ~ turn.number ~ ']\\n\\n问：' ~ message.content ~ '\\n\\n答：' }}
{%- set turn.number = turn.number + 1 %}
{%- elif message.role == 'assistant' %}
{{- message.content + '\\n\\n' }}
{%- else %}
{{- raise_exception('Unknown role: ' + message.role) }}
{%- endif %}
{%- endfor %}"""
"""ChatGLM2 numbers its rounds; a question ends with the marker of the answer, which prompts for it."""

_ROLES: Final = """\
{%- set roles = {'system': 'system', 'developer': 'system', 'user': 'user',
    'assistant': 'assistant', 'tool': 'observation', 'observation': 'observation'} %}"""

THIRD: Final = (
    _ROLES
    + """\
{{- '[gMASK]sop' }}
{%- if tools %}
{{- '<|system|>\\n Answer the following questions as best as you can. You have access to the '
    + 'following tools:\\n' + (tools | tojson(indent=4)) }}
{%- endif %}
{%- for message in messages %}
{%- if message.role not in roles %}
{{- raise_exception('Unknown role: ' + message.role) }}
{%- endif %}
{%- if message.content or not message.tool_calls %}
{%- set content = message.content or '' %}
{{- '<|' + roles[message.role] + '|>\\n '
    + (content | trim if message.role == 'assistant' else content) }}
{%- endif %}
{%- for call in message.tool_calls or [] %}
{{- '<|assistant|>' + call.function.name + '\\n ```python\\ntool_call(' }}
{%- for name, value in (call.function.arguments or {}).items() %}
{{- ('' if loop.first else ', ') + name + '=' + (value | tojson) }}
{%- endfor %}
{{- ')\\n```' }}
{%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' if tools else '<|assistant|>\\n' }}{% endif %}"""
)
"""ChatGLM3: a role's marker, the end of the line, the text, each tokenised with its own space."""

FOURTH: Final = (
    _ROLES
    + """\
{{- '[gMASK]<sop>' }}
{%- if tools %}
{{- '<|system|>\\n你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，\
你的任务是针对用户的问题和要求提供适当的答复和支持。\\n\\n# 可用工具' }}
{%- for tool in tools %}
{%- set function = tool.function if tool.function is defined else tool %}
{{- '\\n\\n## ' + function.name + '\\n\\n' + (function | tojson(indent=4)) }}
{{- '\\n在调用上述函数时，请使用 Json 格式表示调用的参数。' }}
{%- endfor %}
{%- endif %}
{%- for message in messages %}
{%- if message.role not in roles %}
{{- raise_exception('Unknown role: ' + message.role) }}
{%- endif %}
{%- if message.content or not message.tool_calls %}
{{- '<|' + roles[message.role] + '|>\\n' + ((message.content or '') | trim('\\n')
    if message.role == 'assistant' else (message.content or '')) }}
{%- endif %}
{%- for call in message.tool_calls or [] %}
{{- '<|assistant|>' + call.function.name + '\\n' + (call.function.arguments
    if call.function.arguments is string else call.function.arguments | tojson) }}
{%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' if tools else '<|assistant|>\\n' }}{% endif %}"""
)
"""GLM-4: like ChatGLM3 without the spaces; a call has its name where others have nothing."""
