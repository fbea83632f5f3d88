"""Structured output: grammars and schemas compiled into token masks."""
