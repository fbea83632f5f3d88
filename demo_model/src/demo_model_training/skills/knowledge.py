"""Capitals, colours and opposites from the fixed tables."""

from __future__ import annotations

from demo_model_training.dialogue import Exchange, Scene, ask
from demo_model_training.phrasing import expand
from demo_model_training.skills.unknown import DONT_KNOW, DONT_KNOW_TERSE, invented_word
from demo_model_training.tables import (
    CAPITALS,
    COLOURS,
    FAVOURITE_COLOURS,
    MIXED_COLOURS,
    ONE_WAY_OPPOSITES,
    OPPOSITES,
    THINGS,
    UNKNOWN_COUNTRIES,
)

COUNTRIES = {city: country for country, city in CAPITALS.items()}
OPPOSITE_OF = dict(OPPOSITES) | {b: a for a, b in OPPOSITES} | ONE_WAY_OPPOSITES
# Things without a colour in the table: the model must say that it does not know.
COLOURLESS = tuple(t for t in THINGS if t not in " ".join(COLOURS) and t not in OPPOSITE_OF)


def capital(scene: Scene) -> Exchange:
    """The capital of a country, or the country of a capital; unknown countries are declined."""
    rng = scene.rng
    if rng.random() < 0.2:
        city = rng.choice(tuple(COUNTRIES))
        country = COUNTRIES[city]
        question = expand(
            rng, "{{Which country is [c] the capital of|[c] is the capital of which country|[c] is"
            " the capital of what country|What country has the capital [c]|Of which country is [c]"
            " the capital|What is [c] the capital of}?|In which country is [c]?}", c=city,
        )  # fmt: skip
        plain = f"{city} is the capital of {country}."
        return ask(scene, "capitals", question, plain, country, city)
    unknown = rng.random() < 0.12 and "search" not in scene.tools
    country = rng.choice(UNKNOWN_COUNTRIES if unknown else tuple(CAPITALS))
    question = expand(
        rng, "{{What is|What's|Which city is|Tell me|Name|Do you know|Give me|Can you tell me} the"
        " {capital|capital city} of [c]?|[c]: capital?|What is [p] capital?}",
        c=country, p=country + ("'" if country.endswith("s") else "'s"),
    )  # fmt: skip
    question = question[0].upper() + question[1:]
    if unknown:
        return ask(scene, "capitals", question, DONT_KNOW, DONT_KNOW_TERSE, country)
    city = CAPITALS[country]
    return ask(scene, "capitals", question, f"The capital of {country} is {city}.", city)


def colour(scene: Scene) -> Exchange:
    """The colour of a thing, or a mixture of two colours."""
    rng = scene.rng
    if rng.random() < 0.2:
        (a, b), mixed = rng.choice(tuple(MIXED_COLOURS.items()))
        if rng.random() < 0.5:
            a, b = b, a
        question = expand(
            rng, "{What {colour|color} {do you get|is it|comes out} {if you mix|when you mix|from}"
            " [a] and [b]?|What do [a] and [b] {make|give}?|Mix [a] and [b].|What is [a] plus [b]"
            " as a {colour|color}?}", a=a, b=b,
        )  # fmt: skip
        return ask(scene, "colours", question, f"Mixing {a} and {b} gives {mixed}.", mixed)
    if rng.random() < 0.1 and "search" not in scene.tools:
        thing = rng.choice(COLOURLESS) if rng.random() < 0.7 else invented_word(scene)
        question = expand(rng, "What {colour|color} is {a|the} [t]?", t=thing)
        return ask(scene, "colours", question, DONT_KNOW, DONT_KNOW_TERSE, thing)
    thing = rng.choice(tuple(COLOURS))
    name = COLOURS[thing]
    if rng.random() < 0.15:
        guess = rng.choice((name, rng.choice(FAVOURITE_COLOURS)))
        question = expand(rng, "Is [t] [g]?", t=thing, g=guess)
        right = guess == name
        plain = f"Yes, {thing} is {name}." if right else f"No, {thing} is {name}."
        return ask(scene, "colours", question, plain, "Yes." if right else "No.")
    question = expand(
        rng, "{What {colour|color} {is|has} [t]?|Which {colour|color} {is|has} [t]?|What is the"
        " {colour|color} of [t]?|Tell me the {colour|color} of [t].|Do you know the {colour|color}"
        " of [t]?}", t=thing,
    )  # fmt: skip
    subject = thing[0].upper() + thing[1:]
    return ask(scene, "colours", question, f"{subject} is {name}.", name)


def opposite(scene: Scene) -> Exchange:
    """The opposite of a word."""
    rng = scene.rng
    unknown = rng.random() < 0.08 and "search" not in scene.tools
    word = rng.choice(tuple(OPPOSITE_OF))
    if unknown:
        word = rng.choice(COLOURLESS) if rng.random() < 0.5 else invented_word(scene)
    shown = rng.choice((word, word, f'"{word}"', f"'{word}'"))
    question = expand(
        rng, "{{What is|What's|Tell me|Give me|Name|Do you know|Which word is} the opposite of"
        " {|the word }[w]?|What is {|the }antonym of [w]?|[w] is the opposite of {what|which"
        " word}?|Opposite of [w]?}", w=shown,
    )  # fmt: skip
    question = question[0].upper() + question[1:]
    if unknown:
        return ask(scene, "opposites", question, DONT_KNOW, DONT_KNOW_TERSE, word)
    other = OPPOSITE_OF[word]
    return ask(scene, "opposites", question, f"The opposite of {word} is {other}.", other, word)
