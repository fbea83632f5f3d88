"""A custom tool's Lark grammar -> a regular expression."""

from __future__ import annotations

import re

import pytest

from api.openai.chat.lark_pattern import pattern_of
from penstock.errors import InvalidParameter

PATCH = r"""
start: OPENING part+ CLOSING LF?

part: created | removed | edited
created: "*** Add File: " NAME LF (PLUS rest)+
removed: "*** Delete File: " NAME LF
edited: "*** Update File: " NAME LF moved? (section | edit)* LAST?

moved: "*** Move to: " NAME LF
section: "@@" (" " NAME)? LF
edit: SIGN rest
rest: ANYTHING? LF -> text

OPENING: "*** Begin Patch" LF
CLOSING: "*** End Patch"
LAST: "*** End of File" LF
PLUS: "+"
SIGN: "+" | "-" | " "
NAME: /.+/
ANYTHING: /.+/

%import common.LF
"""
"""Patches in the envelope that coding agents ask for, by rules of our own."""

SOURCE = r"""
start: (OPTIONS EOL)? CODE
OPTIONS: /\/\/ @exec:[^\r\n]*/
EOL: /\r?\n/
CODE: /[\s\S]+/
"""
"""A program with an optional line of options before it."""

CHANGED = """*** Begin Patch
*** Update File: a
*** Move to: b
@@ def f
-x
+\ty
 z
*** End of File
*** Delete File: c
*** End Patch"""
ADDED = "*** Begin Patch\n*** Add File: a b.txt\n+one\n+\n*** End Patch\n"


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        (ADDED, True),
        (ADDED.rstrip("\n"), True),
        (ADDED.replace("+one", "one"), False),
        ("*** Begin Patch\n*** End Patch\n", False),
        (CHANGED, True),
    ],
)  # fmt: skip
def test_patches(text: str, fits: bool) -> None:
    assert bool(re.fullmatch(pattern_of(PATCH), text)) is fits


@pytest.mark.parametrize(
    ("grammar", "yes", "no"),
    [
        ('start: "a" | "b" "c"', "bc", "ac"),
        ('start: ("a" | "b")~2..3 ["!"]', "aba!", "a"),
        ('start: A "x"i\nA: "0".."9"+', "12X", "X"),
        ("start: /[a-c]+/i ESC\n%import common.ESCAPED_STRING -> ESC", 'AB"x\\"y"', "AB"),
        ('?start.2: item -> whole // a remark\nitem: "(" INT ")"\n%import common (INT, WS)',
         "(42)", "(x)"),
        ('start: "a"\n  | "b"\n  | ".*"', ".*", "xx"),
        (SOURCE, "// @exec: x\r\nlet a;\n", ""),
        ('start: "+".."]"~2', "+]", "+^"),
        (r'start: "a\n\\" /\//', "a\n\\/", "a"),
    ],
)  # fmt: skip
def test_grammars(grammar: str, yes: str, no: str) -> None:
    pattern = pattern_of(grammar)
    assert re.fullmatch(pattern, yes)
    assert not re.fullmatch(pattern, no)


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ('start: "(" start ")" | "x"', "leads to itself"),
        ("start: other", "no rule other"),
        ('other: "a"', "no rule start"),
        ('start: "a"\nstart: "b"', "there twice"),
        ('start: ("a"', "not closed"),
        ("start: $", "is not known"),
        ('%ignore " "\nstart: "a"', "is not known"),
        ("%import common.NOTHING\nstart: NOTHING", "is not known"),
        ('"a"', "outside of a rule"),
        ('start: "a" ) "b"', "unexpected"),
        ("start: " + "(" * 300 + '"a"' + ")" * 300, "nested too deeply"),
        ("\n".join(f"r{n}: r{n + 1} r{n + 1}" for n in range(40))
         + '\nr40: "a"\nstart: r0', "over 100000 characters"),
        ("\n".join(f"r{n}: a" for n in range(200))
         + '\na: "' + "x" * 9_000 + '"\nstart: ' + " | ".join(f"r{n}" for n in range(200)),
         "over 1000000 characters|over 100000"),
        ('big: "' + "x" * 90_000 + '"\nstart: ' + "|".join(["big"] * 9_000), "over 100000"),
        ("\n".join(f"r{n}: r{n + 1}" for n in range(400)) + '\nr400: "a"\nstart: r0',
         "nested too deeply"),
    ],
)  # fmt: skip
def test_what_is_not_regular_or_too_large(grammar: str, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        pattern_of(grammar)
