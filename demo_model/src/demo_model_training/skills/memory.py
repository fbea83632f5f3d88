"""What the user tells of themselves, and asking for it later."""

from __future__ import annotations

from demo_model_training.dialogue import Exchange, Message, Scene, ask
from demo_model_training.phrasing import expand
from demo_model_training.tables import (
    CITIES,
    FAVOURITE_COLOURS,
    FOODS,
    JOBS,
    NAMES,
    PETS,
    SYLLABLES,
)

# kind -> (statements, reply, terse reply, questions, answer, answer when it was never told)
KINDS: dict[str, tuple[str, str, str, str, str, str]] = {
    "name": (
        ("{My name is [v]|I am [v]|I'm [v]|Call me [v]|My name's [v]|I am called [v]|You can call me"
        " [v]|Hello, my name is [v]|Hi, I'm [v]|Hi, I am [v]|This is [v]|Hey, [v] here}{.|!|}"),
        "Nice to meet you, [v]!", "Hello, [v]!",
        ("{What is my name|What's my name|Do you know my name|Who am I|Do you remember my name|Tell"
        " me my name|How am I called|Say my name|What am I called|Can you tell me my name"
        "|Which name did I tell you|Did I tell you my name|What did I say my name was}?"),
        "Your name is [v].", "You have not told me your name.",
    ),
    "city": (
        ("{I live in [v]|I am from [v]|I'm from [v]|My city is [v]|I come from [v]|My home is [v]"
        "|My home town is [v]|I'm living in [v]}{.|!|}"),
        "Good to know: you live in [v].", "Noted: [v].",
        ("{Where do I live|Where am I from|Which city do I live in|What is my city|What's my city|Do"
        " you know where I live|Where is my home|What city am I from|What is my home town}?"),
        "You live in [v].", "You have not told me where you live.",
    ),
    "colour": (
        ("{My favourite {colour|color} is [v]|My favorite {color|colour} is [v]|I like the colour"
        " [v] best|The {colour|color} I like best is [v]}{.|!|}"),
        "Good to know: your favourite colour is [v].", "Noted: [v].",
        ("{What is my favourite colour|What's my favorite color|Which colour do I like best|Do you"
        " know my favourite colour|What colour do I like|Tell me my favourite colour}?"),
        "Your favourite colour is [v].", "You have not told me your favourite colour.",
    ),
    "food": (
        ("{My favourite food is [v]|I like to eat [v]|My favorite food is [v]|The food I like best"
        " is [v]|I love eating [v]}{.|!|}"),
        "Good to know: your favourite food is [v].", "Noted: [v].",
        ("{What is my favourite food|What's my favorite food|What do I like to eat|Which food do I"
        " like best|Do you know my favourite food|What do I love eating}?"),
        "Your favourite food is [v].", "You have not told me your favourite food.",
    ),
    "pet": (
        ("{I have a [p] called [v]|My [p] is called [v]|I have a [p] named [v]|My [p]'s name is [v]"
        "|The name of my [p] is [v]}{.|!|}"),
        "Good to know: your [p] is called [v].", "Noted: [v].",
        ("{What is my [p] called|What's the name of my [p]|What is my [p]'s name|Do you know the"
        " name of my [p]|How is my [p] called}?"),
        "Your [p] is called [v].", "You have not told me about your pet.",
    ),
    "number": (
        ("{My lucky number is [v]|My favourite number is [v]|Remember the number [v]|Remember this"
        " number: [v]|The number is [v]|My number is [v]}{.|!|}"),
        "I will remember the number [v].", "Noted: [v].",
        ("{What is my number|What is my lucky number|Which number did I tell you|What was the number"
        "|What's my favourite number|Do you remember the number|Which number should you remember}?"),
        "The number is [v].", "You have not told me a number.",
    ),
    "job": (
        "{I am a [v]|I'm a [v]|I work as a [v]|My job is [v]|By profession I am a [v]}{.|!|}",
        "Good to know: you work as a [v].", "Noted: [v].",
        ("{What is my job|What's my job|What do I do for a living|What do I work as|Do you know my"
        " job|What is my profession}?"),
        "You work as a [v].", "You have not told me your job.",
    ),
    "word": (
        ("{Remember the word [v]|The secret word is [v]|Remember this word: [v]|The password is [v]"
        "|Please remember the word [v]|The code word is [v]}{.|!|}"),
        "I will remember the word [v].", "Noted: [v].",
        ("{What is the secret word|What was the word|Which word did I tell you|What is the password"
        "|Do you remember the word|What was the code word|Which word should you remember}?"),
        "The word is [v].", "You have not told me a word.",
    ),
}  # fmt: skip


def invented(scene: Scene) -> str:
    """An invented name of two or three syllables."""
    count = scene.rng.choice((2, 2, 3))
    return "".join(scene.rng.choice(SYLLABLES) for _ in range(count)).capitalize()


def value_of(scene: Scene, kind: str) -> str:
    """A value to remember."""
    rng = scene.rng
    if kind == "number":
        return str(rng.randrange(1, 100 if rng.random() < 0.7 else 10000))
    if kind == "word":
        return invented(scene).lower()
    tables = {"name": NAMES, "city": CITIES, "colour": FAVOURITE_COLOURS, "food": FOODS,
              "pet": NAMES, "job": JOBS}  # fmt: skip
    if kind in ("name", "city", "pet") and rng.random() < 0.4:
        return invented(scene)
    return rng.choice(tables[kind])


def _question(scene: Scene, kind: str) -> Exchange:
    _, _, _, questions, answer, never = KINDS[kind]
    known = scene.facts.get(kind)
    pet = scene.facts.get("pet_kind") or scene.rng.choice(PETS)
    question = expand(scene.rng, questions, p=pet)
    if known is None:
        key = "never" + question
        return ask(scene, "memory", question, never, "You have not told me.", pet, key=key)
    plain = answer.replace("[v]", known).replace("[p]", pet)
    terse = known if kind == "number" else known + "."
    return ask(scene, "memory", question, plain, terse, pet, key=question + known)


def tell_and_recall(scene: Scene) -> Exchange:
    """Tell something, or ask for something told before (or never told)."""
    rng = scene.rng
    kind = rng.choice(tuple(KINDS))
    told = [k for k in KINDS if k in scene.facts]
    if told and rng.random() < 0.6:
        return _question(scene, rng.choice(told))
    if rng.random() < 0.12:
        return _question(scene, kind)
    statements, reply, terse, *_ = KINDS[kind]
    value = value_of(scene, kind)
    pet = rng.choice(PETS)
    shown = f'"{value}"' if kind == "word" and rng.random() < 0.3 else value
    statement = expand(rng, statements, v=shown, p=pet)
    exchange = ask(
        scene, "memory", statement,
        reply.replace("[v]", value).replace("[p]", pet), terse.replace("[v]", value), value, pet,
        key=statement,
    )  # fmt: skip
    scene.facts[kind] = value
    if kind == "pet":
        scene.facts["pet_kind"] = pet
    return exchange


def recall(scene: Scene) -> Exchange | None:
    """What the user or the assistant said just before, word for word."""
    rng = scene.rng
    if len(scene.history) < 2:
        return None
    last_user, last_answer = scene.history[-2], scene.history[-1]
    if last_user.role != "user" or last_answer.tool_calls or "\n" in last_answer.content:
        return None
    if rng.random() < 0.5 and len(last_user.content) < 90:
        question = expand(
            rng, "{What did I just {say|ask|write}|What was my last {question|message}|Repeat my"
            " last {question|message}|What have I just {said|asked}|Repeat what I just said}{?|.|}",
        )  # fmt: skip
        text = f'You said: "{last_user.content}"'
    elif len(last_answer.content) < 200:
        question = expand(
            rng, "{Say that again|Repeat that|Repeat your last answer|What did you just say|Once"
            " more, please|Can you repeat that|Pardon|Please say it again|Can you say that again"
            "|Repeat your answer|Again, please|Come again}{?|.|}",
        )  # fmt: skip
        text = last_answer.content
    else:
        return None
    messages = (Message("user", question), Message("assistant", text))
    return Exchange("recall", question + text, messages)
