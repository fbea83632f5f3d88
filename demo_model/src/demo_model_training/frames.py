"""Frames: the many ways in which people ask to do a thing, ask about one, or tell what they see.

A topic says what is asked (`acts`, `things`, `symptoms`), a frame how. `[x]` is the topic's part.
`synonyms.py` then puts words of like meaning in the place of common ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from demo_model_training.phrasing import expand
from demo_model_training.synonyms import other_words
from demo_model_training.tables import JOBS, THINGS

if TYPE_CHECKING:
    import random

    from demo_model_training.facts import Topic

ACT_FRAMES = (
    "<HOW> [x]?",
    "<HOW> [x]?",
    (
        "{How do I|How can I|How to|How do we|How can we|How does one|How would one|How might I"
        "|How am I supposed to|How should we|How could I|Any way to|Which way do I} [x]?"
    ),
    (
        "{Is there {a|any} {way|command|setting|trick|method|means|option|possibility} to|Is it"
        " possible to|Can I|Can we|Could I|May I|Am I able to|Can one|Are we able to|Does Penstock"
        " let me|Will it let me|Can Penstock help me to|Can it} [x]?"
    ),
    (
        "{I want to|I would like to|I'd like to|I need to|I have to|I am trying to|I wish to"
        "|We want to|We need to|We have to|I'd rather|We would like to|My boss wants me to"
        "|I was asked to|My task is to|I plan to|I was told to|Somebody wants to} [x]"
        "{.|. How?|, how?|. What do I do?| but I don't know how.|. Any advice?|. How does that work?"
        "|. What is the way?|, please help.|. Which command?|. Where do I start?| now.}"
    ),
    (
        "{What is the command|Which command is there|What do I type|What do I have to do|What must I"
        " do|What should I run|What do I need|What is the best way|What is the right way|What is the"
        " easiest way|What's the way|What does it take|What is needed|Which setting is there|What is"
        " the procedure|What are the steps|What can I do|Whats the command} {to|if I want to|in order"
        " to|when I want to} [x]?"
    ),
    "[x]",
    "[x]{?|, how?| how| how to|, please|, what is the command?|: how?| - how do I do that?}",
    (
        "{how to|howto|way to|steps to|command to|trying to|want to|need to|help me|please|guide to"
        "|instructions to|best way to|where do I} [x]"
    ),
    (
        "{Explain|Tell me|Show me|Describe|Please explain|Can you tell me|Could you explain|Remind me"
        "|Do you know|I forgot|Teach me|Give me a hint} how {to|I can|one can|you|we} [x]{.|?|}"
    ),
    "What if I {want|need|have|wish} to [x]?",
)
THING_FRAMES = (
    "<WHATIS> [x]?",
    "<WHATIS> [x]?",
    "{What is|What's|What about|What are|How about|What exactly is} [x]?",
    "[x]",
    "[x]?",
    (
        "{Explain|Tell me about|Describe|Define|Say something about|Give me the facts about|Help with"
        "|Info on|Information about|Details on|Something about|A word on|All about|More on|Give me"
        "|I need to know|I want to know about|I would like to know|I'm curious about|Remind me of"
        "|Can you tell me|Could you tell me|Please tell me|Do you know|What do you know about} [x]"
        "{.|?|}"
    ),
    "{I have|There is|Here is|I've got} {a question|one question|something to ask} about [x].",
    "{How does|How do|How is} [x] work{| here| in Penstock}?",
    (
        "{Where do I|Where can I|How do I|How can I} {find|see|get|look up|learn about|find out about"
        "|read about} [x]?"
    ),
    "{What does|What would} [x] {mean|do}{?| here?| in Penstock?}",
    "{What is|What's} {the story|the matter|the deal|up} with [x]?",
    (
        "{I don't understand|I do not get|I wonder about|I am unsure about|I read about|I heard of"
        "|I stumbled over|The docs mention|Somebody mentioned|My colleague asked about} [x]"
        "{.|. What is it?|, what is that?|. Explain.|. Can you help?}"
    ),
    "[x] {explained|meaning|help|info|question|in Penstock|please|, please explain}",
)
SYMPTOM_FRAMES = (
    "[x]. <FIX>?",
    "[x]. <FIX>?",
    (
        "{What if|What happens when|What to do when|What should I do when|What do I do if|What happens"
        " if|What can I do when|What does it mean when|What is the cause when|What helps when|Why is it"
        " that|How come|What is wrong when|What shall I do if|Why would it be that} [x]?"
    ),
    "[x]",
    "[x]{.|!|?|}",
    (
        "{Help, |Help! |Problem: |Trouble: |Hi, |Hey, |Oh no, |Strange: |Emergency: |Since today |Since"
        " yesterday |Sometimes |Suddenly |Again and again |Every day |In production |On our server }"
        "[x]{.|!|. <FIX>?|, what now?|, why?|}"
    ),
    (
        "[x], {what now|why|why is that|how do I fix that|any ideas|help|what can I do|what's going on"
        "|what is the reason|what should we do|is that normal|what is wrong|what's up}?"
    ),
    (
        "{It seems that|I think that|It looks like|I notice that|I see that|We see that|My users say"
        " that|Our users complain that|I am told that|The log says that|I fear that|I believe} [x]"
        "{.|. <FIX>?|, what now?|. Why?|}"
    ),
    "{why|what to do|help|fix|solution|cause}: [x]",
    "Why? [x].",
)
PLACES = (
    " in Penstock", " with Penstock", " here", " on my machine", " in the fleet", " in our fleet",
    " on our server", " at work", " in production", " with this", " for my team", " today",
    " on our cluster", " in my set-up", " at home", " in this project",
)  # fmt: skip
OPENINGS = (
    "I am new here. ", "We run a small fleet. ", "I have two servers. ", "I just installed it. ",
    "I'm a beginner. ", "My boss asks: ", "For our team: ", "I read the README, but: ", "Hello! ",
    "We use Penstock at work. ", "Sorry for the silly question. ", "I am stuck. ", "One thing: ",
    "I looked everywhere. ", "I can't find it: ", "A colleague wonders: ", "Next question. ",
    "I operate a cluster. ", "I am setting up a fleet. ", "About Penstock: ", "Penstock: ",
)  # fmt: skip


def framed(rng: random.Random, kind: str, part: str) -> str:
    """One of the frames of `acts`, `things` or `symptoms` around a topic's part."""
    frames = {"acts": ACT_FRAMES, "things": THING_FRAMES, "symptoms": SYMPTOM_FRAMES}[kind]
    text = expand(rng, frames[int(rng.random() * len(frames))])
    at = text.index("[x]")
    if at == 0 or text[at - 2 : at] in (". ", "! "):
        part = part[0].upper() + part[1:] if rng.random() < 0.7 else part
    if kind == "symptoms" and text.endswith("[x]?") and rng.random() < 0.1:
        text = text[:-1]
    return text.replace("[x]", part)


def question_of(rng: random.Random, topic: Topic) -> str:
    """One question for a topic: a whole one, or a framed part, in these or in other words."""
    kinds = {
        "questions": 2.0 if topic.questions else 0.0,
        "acts": 2.0 if topic.acts else 0.0,
        "things": 1.2 if topic.things else 0.0,
        "symptoms": 2.0 if topic.symptoms else 0.0,
    }
    kind = rng.choices(tuple(kinds), tuple(kinds.values()))[0]
    patterns = getattr(topic, kind)
    # A pattern of many branches is drawn more often than one of few.
    weights = [1 + pattern.count("|") ** 0.5 for pattern in patterns]
    text = expand(rng, rng.choices(patterns, weights)[0])
    if kind != "questions":
        text = framed(rng, kind, text)
    if rng.random() < 0.5:
        text = other_words(rng, text, 0.3)
    return text


_SMALL = (
    "the a an is are do does did i me my we our you your it to of for in on at by with and or be can"
    " could would should will that this there have has if what's one some please how what"
)
SMALL = frozenset(_SMALL.split())
ASIDES = (
    "because the [t] is slow", "since my [j] asked", "before the [t] arrives", "for the [t] team",
    "and I am no [j]", "as a [j]", "while we wait for the [t]", "after the update", "since Monday",
    "although I read the docs", "on a Friday evening", "as usual", "in our company", "over night",
    "and nobody here knows", "if that is possible at all", "without too much work", "by the way",
    "with the newest version", "when many people use it", "in a hurry", "for a friend",
)  # fmt: skip


def _keywords(text: str) -> str:
    """The words that matter, as typed into a search box."""
    kept = [w for w in text.rstrip("?.!").split(" ") if w.lower().strip(",") not in SMALL]
    return " ".join(kept) if len(kept) >= 2 else text


def _thinned(rng: random.Random, text: str) -> str:
    """Without some of the small words, and at times with two neighbours swapped."""
    words = [w for w in text.split(" ") if w.lower() not in SMALL or rng.random() < 0.6]
    if len(words) > 3 and rng.random() < 0.4:
        at = rng.randrange(len(words) - 1)
        words[at], words[at + 1] = words[at + 1], words[at]
    return " ".join(words) if len(words) >= 2 else text


def placed(rng: random.Random, text: str) -> str:
    """`text` as people put it: with a place, an opening or an aside, or with fewer words."""
    roll = rng.random()
    end = text[-1] if text[-1] in "?.!" else ""
    if roll < 0.06:
        return text.removesuffix(end) + rng.choice(PLACES) + end
    if roll < 0.12:
        return rng.choice(OPENINGS) + text
    if roll < 0.2:
        aside = (
            rng.choice(ASIDES).replace("[t]", rng.choice(THINGS)).replace("[j]", rng.choice(JOBS))
        )
        return f"{text.removesuffix(end)} {aside}{end}"
    if roll < 0.27 and "`" not in text:
        return _keywords(text)
    if roll < 0.37 and "`" not in text:
        return _thinned(rng, text)
    return text
