"""Sums with numbers to 99, small products, and comparisons."""

from __future__ import annotations

from demo_model_training.dialogue import Exchange, Scene, ask
from demo_model_training.phrasing import expand

TOO_BIG = "That is too big for me: I only do sums with numbers to 99."

ASK = "{What is|What's|Calculate|Compute|How much is|Work out|Solve|||Can you calculate|Tell me} "


def _sum(scene: Scene, skill: str, a: int, b: int, sign: str, question: str) -> Exchange:  # noqa: PLR0917
    result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[sign]
    question = question.strip()
    question = question[0].upper() + question[1:]
    plain = f"{a} {sign} {b} = {result}."
    # Products are a table to be learnt by heart: held out by phrasing. Sums are held out by value.
    key = f"{a}{sign}{b}" if sign in "+-" else ""
    return ask(scene, skill, question, plain, f"{result}", key=key)


def number(scene: Scene) -> int:
    """0 to 99; half of the time below 20, since people ask small sums."""
    return scene.rng.randrange(20 if scene.rng.random() < 0.25 else 100)


def add(scene: Scene) -> Exchange | None:
    """A + b in figures or words, and little stories of apples."""
    if "calculator" in scene.tools:
        return None  # the calculator gets it
    rng = scene.rng
    a, b = number(scene), number(scene)
    if rng.random() < 0.06:
        return too_big(scene, "add", "{+|plus}")
    if rng.random() < 0.08 and a > 1 and b > 1:
        thing = rng.choice(("apples", "books", "coins", "eggs", "cards", "pens", "jobs", "workers"))
        question = expand(
            rng,
            "{I have [a] [t] and {get|buy|find} [b] more|There are [a] [t] and [b] more come|I have"
            " [a] [t] and you give me [b]}. How many [t] {are there|do I have{| now}}?",
            a=str(a), b=str(b), t=thing,
        )  # fmt: skip
        plain = f"{a} + {b} = {a + b}, so {a + b} {thing}."
        return ask(scene, "add", question, plain, str(a + b), key=f"{a}+{b}")
    form = ASK + "{[a] + [b]|[a]+[b]|[a] plus [b]|the sum of [a] and [b]}{?|}|"
    form = "{" + form + "{Add|Please add} [a] {and|to} [b]{.|}|[a] + [b]{| =|?| = ?}|[a]+[b]{|=|?}}"
    return _sum(scene, "add", a, b, "+", expand(rng, form, a=str(a), b=str(b)))


def subtract(scene: Scene) -> Exchange | None:
    """A - b, sometimes below zero; halves are divisions and live in `multiply`."""
    if "calculator" in scene.tools:
        return None  # the calculator gets it
    rng = scene.rng
    a, b = number(scene), number(scene)
    if rng.random() < 0.05:
        return too_big(scene, "subtract", "{-|minus}")
    if a < b and rng.random() < 0.7:
        a, b = b, a
    if rng.random() < 0.08 and a > b + 1 and b > 1:
        thing = rng.choice(("apples", "books", "coins", "eggs", "cards", "pens", "jobs", "workers"))
        question = expand(
            rng,
            "{I have [a] [t] and {lose|give away|sell|eat} [b]|There are [a] [t] and [b] {go|are"
            " taken}}. How many [t] are left?",
            a=str(a), b=str(b), t=thing,
        )  # fmt: skip
        plain = f"{a} - {b} = {a - b}, so {a - b} {thing}."
        return ask(scene, "subtract", question, plain, str(a - b), key=f"{a}-{b}")
    if rng.random() < 0.15:
        form = "{Subtract|Take} [b] from [a]{.|}"
    else:
        form = (
            "{" + ASK + "{[a] - [b]|[a]-[b]|[a] minus [b]|[a] take away [b]}{?|}"
            "|[a] - [b]{| =|?| = ?}|[a]-[b]{|=|?}}"
        )
    return _sum(scene, "subtract", a, b, "-", expand(rng, form, a=str(a), b=str(b)))


def multiply(scene: Scene) -> Exchange | None:
    """Products to 12 times 12 or 100, exact divisions of them, doubles and halves."""
    if "calculator" in scene.tools:
        return None  # the calculator gets it
    rng = scene.rng
    if rng.random() < 0.08:
        return too_big(scene, "multiply", "{*|times|x}")
    a, b = rng.randrange(13), rng.randrange(13)
    if rng.random() < 0.2:
        b = rng.randrange(2, 50)
        a = rng.randrange(1, 100 // b + 1)
        if rng.random() < 0.5:
            a, b = b, a
    values = {"a": str(a), "b": str(b)}
    roll = rng.random()
    if roll < 0.1:
        question = expand(rng, "{What is double [b]|Double [b]|What is twice [b]}{?|}", **values)
        return _sum(scene, "multiply", 2, b, "*", question)
    if roll < 0.3 and b:
        values["c"] = str(a * b)
        form = ASK + "{[c] / [b]|[c] divided by [b]|[c]/[b]}{?|}|Divide [c] by [b]{.|}"
        question = expand(rng, "{" + form + "}", **values)
        return _sum(scene, "multiply", a * b, b, "/", question)
    form = ASK + "{[a] * [b]|[a] times [b]|[a] x [b]|[a]*[b]|[a] multiplied by [b]|the product of"
    form += " [a] and [b]}{?|}|Multiply [a] {by|with|and} [b]{.|}|[a] * [b]{| =|?}|[a]*[b]{|=}"
    return _sum(scene, "multiply", a, b, "*", expand(rng, "{" + form + "}", **values))


def too_big(scene: Scene, skill: str, sign: str) -> Exchange:
    """A sum beyond the model's range, which it declines."""
    rng = scene.rng
    a = rng.randrange(100, 10 ** rng.randrange(3, 7))
    b = rng.randrange(13, 10 ** rng.randrange(2, 6))
    if rng.random() < 0.5 and skill == "add":
        a, b = b, a
    if skill == "multiply" and rng.random() < 0.5:
        a, b = rng.randrange(20, 100), rng.randrange(13, 100)
    question = expand(rng, ASK + f"[a] {sign} [b]{{?|}}", a=str(a), b=str(b)).strip()
    question = question[0].upper() + question[1:]
    return ask(scene, skill, question, TOO_BIG, "Too big for me.", key=f"{a}?{b}")


def compare(scene: Scene) -> Exchange:
    """The larger or smaller of two numbers, odd or even, the number after or before."""
    rng = scene.rng
    a, b = rng.sample(range(100), 2)
    kind = rng.randrange(3)
    if kind == 0:
        large = rng.random() < 0.5
        adjective = rng.choice(
            ("larger", "bigger", "greater", "higher") if large else ("smaller", "lower", "less")
        )
        values = {"a": str(a), "b": str(b), "j": adjective}
        question = expand(
            rng, "{Which is [j]{,|:|} [a] or [b]?|What is [j], [a] or [b]?|Which number is [j]: [a]"
            " or [b]?|Is [a] or [b] [j]?}", **values
        )  # fmt: skip
        answer = max(a, b) if large else min(a, b)
        word = "larger" if large else "smaller"
        return ask(
            scene, "compare", question, f"{answer} is {word}.", str(answer), key=f"{word}{a},{b}"
        )
    if kind == 1:
        question = expand(
            rng, "{Is [a] {odd or even|even or odd}?|Is the number [a] odd or even?"
            "|Odd or even: [a]?}", a=str(a),
        )  # fmt: skip
        word = "odd" if a % 2 else "even"
        return ask(scene, "compare", question, f"{a} is {word}.", word)
    step = rng.choice((1, -1))
    question = expand(
        rng, "{{What|Which} {number|} {comes|is} {right |}[w] [a]?|The number [w] [a]?"
        "|Tell me the number [w] [a].}",
        a=str(a), w="after" if step == 1 else "before",
    ).replace("  ", " ")  # fmt: skip
    word = "after" if step == 1 else "before"
    return ask(scene, "compare", question, f"{a + step} comes {word} {a}.", str(a + step))
