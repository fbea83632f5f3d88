"""Questions near to those with an answer, but not among them.

The words of two topics mixed, or a topic's question with the word that matters exchanged for
another. Only the whole of a question, not a word in it, may call an answer.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from demo_model_training.dialogue import Exchange, Scene, ask
from demo_model_training.facts import TOPICS
from demo_model_training.frames import SMALL, framed, placed, question_of
from demo_model_training.phrasing import expand
from demo_model_training.skills.penstock_unknown import DONT_KNOW, DONT_KNOW_TERSE
from demo_model_training.skills.unknown import ADJECTIVES, SUBJECTS, VERBS, invented_word
from demo_model_training.tables import FOODS, JOBS, THINGS

if TYPE_CHECKING:
    import random

WORD = re.compile(r"[A-Za-z][A-Za-z-]{3,}")
OTHER_VERBS = (
    "paint", "bake", "polish", "frighten", "weigh", "bury", "marry", "tickle", "fold", "whistle", "insult",
    "photograph", "iron", "water", "translate", "auction", "varnish", "measure", "advertise", "rent", "steal",
    "decorate", "wrap", "tune", "bless", "hypnotise", "freeze", "melt", "sing to", "sew", "smoke", "patent",
)  # fmt: skip
ACTS = tuple(topic for topic in TOPICS if topic.acts)


@cache
def _words(name: str) -> frozenset[str]:
    """The words that a topic's questions are made of, in lower case."""
    topic = next(one for one in TOPICS if one.name == name)
    text = " ".join((*topic.questions, *topic.acts, *topic.things, *topic.symptoms, topic.plain))
    return frozenset(word.lower() for word in WORD.findall(text))


def _exchanged(rng: random.Random, text: str) -> str | None:
    """`text` with all the words that matter but one exchanged for foreign ones."""
    words = text.split(" ")
    places = [
        i for i, word in enumerate(words)
        if len(word.strip("?.,!")) > 3 and word.lower().strip("?.,!") not in SMALL and word.strip("?.,!").isalpha()
    ]  # fmt: skip
    if not 2 <= len(places) <= 4:
        return None
    kept = rng.choice(places) if rng.random() < 0.6 else -1
    for i in places:
        if i == kept:
            continue
        tail = words[i][len(words[i].rstrip("?.,!")) :]
        table = rng.choice((THINGS, THINGS, SUBJECTS, FOODS, JOBS, ADJECTIVES, VERBS))
        words[i] = (invented_word_of(rng) if rng.random() < 0.3 else rng.choice(table)) + tail
    return " ".join(words)


def invented_word_of(rng: random.Random) -> str:
    """A word that means nothing."""
    return invented_word(Scene(rng))


def penstock_near(scene: Scene) -> Exchange | None:
    """A question that sounds like one of Penstock's and has no answer."""
    if "search" in scene.tools:
        return None
    rng = scene.rng
    if rng.random() < 0.45:  # another verb for what a topic is about
        topic = rng.choice(ACTS)
        act = expand(rng, rng.choice(topic.acts))
        first, _, rest = act.partition(" ")
        if not rest or "`" in act or len(rest) < 4:
            return None
        verb = rng.choice(OTHER_VERBS) if rng.random() < 0.8 else invented_word_of(rng).lower()
        if first.lower() in SMALL or verb in _words(topic.name):
            return None
        text = framed(rng, "acts", f"{verb} {rest}")
    else:
        topic = rng.choice(TOPICS)
        changed = _exchanged(rng, question_of(rng, topic))
        if (
            changed is None
            or "`" in changed
            or "_" in changed
            or "/" in changed
            or changed.isupper()
        ):
            return None
        text = (
            changed + rng.choice(("", "", " in Penstock", " with Penstock"))
            if changed[-1] not in "?.!"
            else changed
        )
        if "penstock" not in text.lower() and rng.random() < 0.6:
            text = (
                rng.choice(("In Penstock: ", "Penstock: ", "About Penstock: ", "With Penstock, "))
                + text
            )
        known = {word.lower() for word in WORD.findall(text)} & _KNOWN
        if not known:
            return None
    return ask(scene, "penstock_near", placed(rng, text), DONT_KNOW, DONT_KNOW_TERSE)


_KNOWN = frozenset(
    [
        "penstock",
        "worker",
        "workers",
        "queue",
        "queues",
        "fleet",
        "redis",
        "token",
        "tokens",
        "model",
        "api",
        "key",
        "keys",
        "celery",
    ]
)
