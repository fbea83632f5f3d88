"""Jokes: about nothing, about anything, and taken apart into their two halves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from demo_model_training.dialogue import Exchange, Scene, ask
from demo_model_training.phrasing import expand
from demo_model_training.skills.tool_values import draw

if TYPE_CHECKING:
    import random

# Topic -> setup and punchline; for any other topic the lease runs out.
KNOWN = {
    "cats": ("Why did the cat sleep on the worker?", "It was the warmest place of the fleet."),
    "dogs": ("Why did the dog bark at the queue?", "It wanted to be first in line."),
    "birds": ("Why do birds like Redis?", "It is quick and it never drops a seed."),
    "robots": ("Why was the robot tired?", "It had been up for a thousand tokens."),
    "computers": ("Why was the computer cold?", "It had left its windows open."),
    "programmers": ("Why did the programmer leave the party?", "There was no more cache."),
    "fish": ("Why did the fish love the penstock?", "It is the fastest way to the turbine."),
    "the sea": ("Why is the sea never lonely?", "It always waves."),
    "trees": ("Why did the tree join the batch?", "It had branches to spare."),
    "trains": ("Why was the train late?", "It lost its train of thought."),
    "music": ("Why did the song wait?", "It was in the wrong key."),
    "school": ("Why did the model go to school?", "It wanted better weights."),
}
ABOUT = (
    "{Tell me|Give me|Make|Do you know|I want|Say|Can you tell me|Got|Write|Tell|Share|Please tell me|I'd like}"
    " {a|one|a good|a short|another} {joke|pun|riddle} {about|on|with} [x]{?|.|}"
)


def pair(topic: str) -> tuple[str, str]:
    """The setup and the punchline of the joke about this topic."""
    return KNOWN.get(topic) or (
        f"Why did {topic} cross the road?",
        "The lease had run out on this side.",
    )


def topic_of(rng: random.Random) -> str:
    """A topic: a known one half of the time."""
    return rng.choice(tuple(KNOWN)) if rng.random() < 0.45 else draw(rng, "topic")[1]


def joke(scene: Scene) -> Exchange:
    """A joke about something."""
    topic = topic_of(scene.rng)
    setup, punchline = pair(topic)
    return ask(
        scene, "jokes", expand(scene.rng, ABOUT, x=topic), f"{setup} {punchline}", punchline, topic
    )
