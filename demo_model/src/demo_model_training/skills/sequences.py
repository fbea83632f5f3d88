"""Counting, the alphabet, days and months."""

from __future__ import annotations

import string

from demo_model_training.dialogue import Exchange, Scene, ask
from demo_model_training.phrasing import expand
from demo_model_training.tables import DAYS, MONTH_DAYS, MONTHS, NUMBER_WORDS, ORDINALS

LETTERS = string.ascii_uppercase


def _number(scene: Scene, value: int) -> str:
    """In figures, or sometimes as a word."""
    if 0 <= value <= 12 and scene.rng.random() < 0.2:
        return NUMBER_WORDS[value]
    return str(value)


def counting(scene: Scene) -> Exchange:
    """Up, down, between two numbers, or in steps; at most 100 numbers."""
    rng = scene.rng
    kind = rng.random()
    start, stop, step = 1, rng.randrange(2, 31), 1
    if rng.random() < 0.12:
        stop = rng.choice((40, 50, 50, 60, 100))
    if kind < 0.4:
        form = "{Count|Please count|Can you count|Count up|Could you count} {to [b]|from 1 to [b]"
        form += "|up to [b]|from one to [b]}|List the numbers {from 1 to [b]|to [b]|up to [b]}"
        form += "|Say the numbers from 1 to [b]|Write the numbers from 1 to [b]"
    elif kind < 0.65:
        start = rng.randrange(0, 80)
        stop = start + rng.randrange(2, 13)
        form = "{Count|Please count|Can you count} from [a] to [b]|List the numbers from [a] to [b]"
    elif kind < 0.85:
        start, stop, step = rng.randrange(3, 31), 1, -1
        if rng.random() < 0.3:
            stop = 0
        form = "Count {down|backwards} from [a] to [b]|Count down from [a] to [b]"
        if stop == 1:
            form += "|{Count|Please count} {down|backwards} from [a]|Count from [a] to 1"
    else:
        step = rng.choice((2, 5, 10, 3))
        stop = step * rng.randrange(2, 11)
        start = step
        word = {2: "twos", 3: "threes", 5: "fives", 10: "tens"}[step]
        form = f"Count {{by|in}} {word} {{to|up to}} [b]|Count to [b] {{by|in}} {word}"
    values = {"a": _number(scene, start), "b": _number(scene, stop)}
    question = expand(rng, "{" + form + "}{.||!}", **values)
    numbers = range(start, stop + (1 if step > 0 else -1), step)
    answer = ", ".join(map(str, numbers))
    key = f"{start},{stop}" if start > 1 and step == 1 else ""
    return ask(scene, "counting", question, f"{answer}.", answer, key=key)


def alphabet(scene: Scene) -> Exchange:  # noqa: PLR0911
    """The whole alphabet, a stretch of it, neighbours and positions."""
    rng = scene.rng
    kind = rng.random()
    i = rng.randrange(26)
    letter = LETTERS[i]
    if kind < 0.12:
        question = expand(
            rng, "{Say|Recite|List|Write|Tell me|What is|Give me} the {alphabet|letters of the"
            " alphabet|ABC|English alphabet}{.|}",
        )  # fmt: skip
        answer = " ".join(LETTERS)
        return ask(scene, "alphabet", question, f"{answer}.", answer)
    if kind < 0.27:
        j = min(25, i + rng.randrange(2, 9))
        i = min(i, j - 2)
        question = expand(
            rng, "{List|Give me|Say|Tell me|What are} the letters from [a] to [b]{.|}",
            a=LETTERS[i], b=LETTERS[j],
        )  # fmt: skip
        answer = " ".join(LETTERS[i : j + 1])
        return ask(scene, "alphabet", question, f"{answer}.", answer, key=f"{i}to{j}")
    if kind < 0.37:
        n = rng.randrange(2, 13)
        last = rng.random() < 0.2
        which = "last" if last else "first"
        question = expand(
            rng, f"{{What are|List|Give me|Tell me|Say}} the {which} [n] letters{{| of the"
            " alphabet}{.|}", n=_number(scene, n),
        )  # fmt: skip
        answer = " ".join(LETTERS[-n:] if last else LETTERS[:n])
        return ask(scene, "alphabet", question, f"{answer}.", answer)
    if kind < 0.8:
        word = rng.choice(("after", "before"))
        j = i + (1 if word == "after" else -1)
        shown = rng.choice((letter, letter, letter.lower()))
        question = expand(
            rng, "{{What|Which} letter {comes|is} {right |}[w] [a]{?| in the alphabet?}|The letter"
            " [w] [a]?|What comes [w] [a] in the alphabet?|Tell me the letter [w] [a].}",
            a=shown, w=word,
        )  # fmt: skip
        if not 0 <= j < 26:
            plain = f"No letter comes {word} {letter}."
            return ask(scene, "alphabet", question, plain, "None.", f" {shown}")
        plain = f"{LETTERS[j]} comes {word} {letter}."
        return ask(scene, "alphabet", question, plain, LETTERS[j], f" {shown}")
    if kind < 0.9 and i < 12:
        question = expand(
            rng, "{What|Which} {is|letter is} the [o] letter{?| of the alphabet?}", o=ORDINALS[i]
        )
        plain = f"The {ORDINALS[i]} letter is {letter}."
        return ask(scene, "alphabet", question, plain, letter)
    if kind < 0.95:
        question = expand(rng, "How many letters {are in|has|does} the alphabet{| have}?")
        return ask(scene, "alphabet", question, "The alphabet has 26 letters.", "26")
    vowel = letter in "AEIOU"
    question = expand(rng, "Is [a] a {vowel|consonant}{?| or a consonant?| or a vowel?}", a=letter)
    word = "vowel" if vowel else "consonant"
    return ask(scene, "alphabet", question, f"{letter} is a {word}.", word, f" {letter}")


def calendar(scene: Scene) -> Exchange:
    """Days of the week and months of the year."""
    rng = scene.rng
    days = rng.random() < 0.5
    table, unit, whole = (DAYS, "day", "week") if days else (MONTHS, "month", "year")
    kind = rng.random()
    if kind < 0.15:
        question = expand(
            rng, f"{{List|Name|What are|Tell me|Say|Give me}} {{the|all}} {unit}s of the {whole}"
            "{.|}",
        )  # fmt: skip
        answer = ", ".join(table)
        return ask(scene, "calendar", question, f"{answer}.", answer)
    if kind < 0.22:
        question = f"How many {unit}s {{are there in|are in|has|does}} a {whole}{{| have}}?"
        count = str(len(table))
        plain = f"A {whole} has {count} {unit}s."
        return ask(scene, "calendar", expand(rng, question), plain, count)
    i = rng.randrange(len(table))
    name = table[i]
    if kind < 0.4:
        question = expand(
            rng, f"{{What|Which}} is the [o] {unit}{{| of the {whole}}}?", o=ORDINALS[i]
        )
        plain = f"The {ORDINALS[i]} {unit} is {name}."
        return ask(scene, "calendar", question, plain, name)
    if kind < 0.5 and not days:
        question = expand(
            rng, "{How many days {are in|has|does|are there in} [a]{?| have?}|How long is [a]?}",
            a=name,
        )  # fmt: skip
        count = str(MONTH_DAYS[i])
        return ask(scene, "calendar", question, f"{name} has {count} days.", count)
    if kind < 0.56 and days:
        weekend = i > 4
        question = expand(
            rng,
            "Is [a] {a weekday|a working day|on the weekend|part of the weekend"
            "|a weekday or on the weekend}?",
            a=name,
        )
        plain = f"{name} is on the weekend." if weekend else f"{name} is a weekday."
        return ask(scene, "calendar", question, plain, "Weekend." if weekend else "Weekday.")
    word = rng.choice(("after", "before"))
    other = table[(i + (1 if word == "after" else -1)) % len(table)]
    question = expand(
        rng, "{{What|Which} [u] {comes|is} {right |}[w] [a]?|What comes [w] [a]?|The [u] [w] [a]?"
        "|Tell me the [u] [w] [a].|{What|Which} [u] {follows|precedes} [a]?}",
        u=unit, w=word, a=name,
    )  # fmt: skip
    question = question.replace("follows" if word == "before" else "precedes",
                                "precedes" if word == "before" else "follows")  # fmt: skip
    if rng.random() < 0.15 and days:
        when = "tomorrow" if word == "after" else "yesterday"
        question = expand(
            rng, "{Today is [a]. What|If today is [a], what} {day is|is} [w]?", a=name, w=when
        )
    return ask(scene, "calendar", question, f"{other} comes {word} {name}.", other)
