"""Whole dialogues: system prompt, tools, exchanges of all skills, and packed rows of token ids.

    python -m demo_model_training.generate --seed 1 --count 5

prints dialogues. Everything follows from the seed: the same seed gives the same text anywhere.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from tokenizers import Encoding

from demo_model_training.dialogue import (
    END_OF_TEXT,
    FIM_MIDDLE,
    FIM_PREFIX,
    FIM_SUFFIX,
    Exchange,
    Message,
    Scene,
    Style,
    given_spans,
    render,
    render_system,
)
from demo_model_training.phrasing import expand
from demo_model_training.skills import SKILLS, TOOL_SKILLS
from demo_model_training.skills.memory import invented
from demo_model_training.skills.tool_open import offer_any, skill_of
from demo_model_training.tables import CITIES, DAYS, JOBS, MONTHS, NAMES

NEUTRAL = (
    "You are {a helpful|an|a friendly|a} {assistant|AI assistant|chat model}{.|}"
    "|You are {Penstock's demo model|the demo model of Penstock|an assistant for Penstock}."
    "|{Answer|Reply to} {the|all} {questions|user}{| as well as you can}.|You help people"
    " {with Penstock|who use Penstock}.|A chat between a {curious |}{human|user} and an"
    " {artificial intelligence |}assistant.{| The assistant gives helpful answers to the questions"
    " of the user.}|Be helpful{.| and honest.}"
)
TERSE = (
    "{You are a terse assistant|Be terse|Answer briefly|Be brief|Keep it short|Answer in as few"
    " words as possible|Reply with the answer only|Give only the answer|Give short answers|Short"
    " answers only|Use as few words as you can|You are terse|You speak tersely|You answer in one or"
    " two words|No explanations, just the answer|Be concise|Answer with one word where you can"
    "|Answer as shortly as possible|Always answer very briefly|You are a laconic assistant}."
)
POLITE = (
    "{You are a {very |}polite assistant|Be {very |}polite|Answer politely|Be courteous|Always be"
    " {polite|courteous}|You are {very |}courteous|Speak politely|Use polite language|You are a"
    " polite butler|Please be polite to the user|Be kind and polite|Reply politely|Answer in a"
    " polite way|Always answer politely|You speak very politely}."
)
NAMED = "{You are [n]|Your name is [n]|You are called [n]|You are an assistant named [n]}."

SKILL_NAMES = tuple(name for name in SKILLS if name not in TOOL_SKILLS)
SKILL_SHARES = tuple(accumulate(SKILLS[name][1] for name in SKILL_NAMES))

# Row length in tokens -> share of the training tokens. Short rows begin many dialogues at position
# 0, as real ones do; long rows teach the positions to 1,024.
ROW_LENGTHS = {128: 0.3, 256: 0.25, 512: 0.25, 1024: 0.2}
TOOLS_SHARE = {128: 0.0, 256: 0.35, 512: 0.5, 1024: 0.5}

PLAIN_TEXT_SKILLS = ("penstock", "penstock", "capitals", "colours", "calendar", "counting", "long")

Encode = Callable[[str], Encoding]
# Token ids, and for each whether it is given, so that it is no example of what to say.
Row = tuple[list[int], list[bool]]


def new_scene(rng: random.Random, tools_share: float) -> tuple[Scene, str]:
    """An empty dialogue and the text of its system prompt, which is often absent."""
    scene = Scene(rng)
    parts: list[str] = []
    if rng.random() < 0.5:
        if rng.random() < 0.2:
            name = rng.choice(NAMES) if rng.random() < 0.6 else invented(scene)
            scene.assistant_name = name
            parts.append(expand(rng, NAMED, n=name))
        elif rng.random() < 0.5:
            values = {"n": rng.choice(NAMES), "c": rng.choice(CITIES), "j": rng.choice(JOBS),
                      "d": f"{rng.choice(DAYS)}, {rng.randrange(1, 29)} {rng.choice(MONTHS)}"}  # fmt: skip
            parts.append(expand(rng, "{" + NEUTRAL + "}", **values))
        roll = rng.random()
        if roll < 0.3:
            scene.style = Style.TERSE
            parts.append(expand(rng, TERSE))
        elif roll < 0.6:
            scene.style = Style.POLITE
            parts.append(expand(rng, POLITE))
    if rng.random() < tools_share:
        offer_any(rng, scene, rng.choice((1, 1, 1, 2, 2, 3, 4)))
    return scene, " ".join(parts)


def _pick_skill(scene: Scene) -> str:
    rng = scene.rng
    if scene.tools and rng.random() < 0.55:
        family = rng.choice(tuple(scene.tools))
        if family in scene.offers:
            return "tool_forced" if rng.random() < 0.04 else skill_of(family)
        return f"tool_{family}" if f"tool_{family}" in SKILLS else "tool_other"
    return rng.choices(SKILL_NAMES, cum_weights=SKILL_SHARES)[0]


def sample(scene: Scene, skill: str | None = None, *, held_out: bool = False) -> Exchange:
    """The next exchange: of `skill`, or of any; from the training side or the held-out side.

    The scene's facts are those of the returned exchange alone. Its history is not extended.
    """
    for _ in range(5000):
        facts = dict(scene.facts)
        exchange = SKILLS[skill or _pick_skill(scene)][0](scene)
        if exchange is not None and exchange.held_out == held_out:
            return exchange
        scene.facts = facts
    message = f"no {'held-out' if held_out else 'training'} exchange of {skill} in this scene"
    raise ValueError(message)


@dataclass(frozen=True)
class Dialogue:
    """A finished dialogue. `tools` are function schemas."""

    system: str
    tools: tuple[dict[str, Any], ...]
    messages: tuple[Message, ...]

    @property
    def text(self) -> str:
        """The dialogue in ChatML, as the chat template writes it."""
        return render_system(self.system, self.tools) + render(self.messages)


def dialogue(seed: str, exchanges: int = 3, tools_share: float = 0.3) -> Dialogue:
    """A dialogue of the training side."""
    rng = random.Random(seed)
    scene, system = new_scene(rng, tools_share)
    for _ in range(exchanges):
        scene.history += sample(scene).messages
    return Dialogue(system, tuple(scene.tools.values()), tuple(scene.history))


def plain_text(rng: random.Random) -> str:
    """A text without chat markers, so that a bare completion goes on sensibly too."""
    scene = Scene(rng)
    return sample(scene, rng.choice(PLAIN_TEXT_SKILLS)).messages[-1].content


def fill_in(rng: random.Random, text: str) -> tuple[str, str]:
    """`text` with a piece of its middle taken out and asked for: the question, and that piece."""
    start = rng.randrange(len(text))
    end = min(len(text), start + 1 + int(rng.expovariate(1 / 30)))
    if rng.random() < 0.7:  # at spaces
        start = text.rfind(" ", 0, start) + 1
        end = (text.find(" ", end) + 1 or len(text) + 1) - 1
    before, middle, after = text[:start], text[start:end], text[end:]
    return f"{FIM_PREFIX}{before}{FIM_SUFFIX}{after}{FIM_MIDDLE}", middle


def _plain_row(rng: random.Random, encode: Encode, length: int) -> Row | None:
    """A bare text, or the middle of one."""
    text, asked = plain_text(rng), ""
    if rng.random() < 0.6:
        asked, text = fill_in(rng, text)
    before, after = encode(asked).ids, encode(text + END_OF_TEXT).ids
    ids = before + after
    # The first token of a bare text follows from nothing.
    given = [True] * max(1, len(before)) + [False] * (len(after) - (not before))
    return (ids, given) if len(ids) <= length else None


def encoded(encode: Encode, messages: Sequence[Message]) -> Row:
    """Messages as token ids; given are the tokens that begin in what a grammar writes."""
    encoding = encode(render(messages))
    ids, given = encoding.ids, [False] * len(encoding.ids)
    spans = given_spans(messages)
    if spans:
        starts = [start for start, _ in encoding.offsets]
        given = [any(a <= start < b for a, b in spans) for start in starts]
    return ids, given


def write_row(rng: random.Random, encode: Encode, length: int) -> Row:
    """One dialogue of at most `length` tokens, filled with exchanges until none fits."""
    if length <= 256 and rng.random() < (0.06 if length == 256 else 0.03):
        row = _plain_row(rng, encode, length)
        if row is not None:
            return row
    scene, system = new_scene(rng, TOOLS_SHARE[length])
    ids = encode(render_system(system, tuple(scene.tools.values()))).ids
    while scene.tools and len(ids) > length * 0.6:  # leave room for the talk
        family, _ = scene.tools.popitem()
        scene.offers.pop(family, None)
        ids = encode(render_system(system, tuple(scene.tools.values()))).ids
    given = [False] * len(ids)
    misses = 0
    while misses < 3 and len(ids) < length - 24:
        facts = dict(scene.facts)
        exchange = sample(scene)
        more, more_given = encoded(encode, exchange.messages)
        if len(ids) + len(more) > length:
            scene.facts = facts
            misses += 1
            continue
        ids += more
        given += more_given
        scene.history += exchange.messages
    return ids, given


def main() -> None:
    """Print dialogues."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--exchanges", type=int, default=4)
    options = parser.parse_args()
    for i in range(options.count):
        print(dialogue(f"{options.seed}/{i}", options.exchanges).text)
        print("-" * 80)


if __name__ == "__main__":
    main()
