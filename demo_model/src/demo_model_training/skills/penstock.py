"""Questions about Penstock."""

from __future__ import annotations

from demo_model_training.dialogue import Exchange, Scene, ask
from demo_model_training.facts import TOPICS
from demo_model_training.frames import placed, question_of
from demo_model_training.phrasing import expand

MODEL_NAMES = (
    "bigdl-7b", "bigdl-13b", "vicuna-7b", "llama-3b", "llama-8b", "qwen-1b", "mistral-7b", "demo",
    "bigdl-demo", "phi-2", "gemma-2b", "chatglm-6b", "falcon-40b", "tiny", "starcoder-3b",
    "bigdl-llama", "bigdl-vicuna", "yi-34b", "opt-1b", "my-model",
)  # fmt: skip
DEVICE_WORDS = {
    "cpu": ("cpu", "a CPU", "an Intel CPU", "the CPU"),
    "xpu": ("xpu", "an Intel GPU", "Intel GPUs", "the Intel GPU"),
    "cuda": ("cuda", "an NVIDIA GPU", "NVIDIA GPUs", "NVIDIA"),
}


def fact(scene: Scene) -> Exchange:
    """One topic, one phrasing."""
    topic = scene.rng.choice(TOPICS)
    question = question_of(scene.rng, topic)
    if topic.name == "what_are_you" and scene.assistant_name:
        name = scene.assistant_name
        plain = f"I am {name}, a very small language model of the Penstock developers."
        return ask(scene, "penstock", question, plain, f"{name}.")
    # Commands in backticks are what is asked: a typo inside them would change the question.
    kept = tuple(
        word
        for word in question.replace("?", " ").replace(".", " ").split()
        if word[:1] in "`/-." or word.isupper() or "_" in word or word in COMMAND_WORDS
    )
    question = placed(scene.rng, question)
    return ask(scene, "penstock", question, topic.plain, topic.terse, *kept)


COMMAND_WORDS = {
    "chat", "models", "status", "bench", "doctor", "demo", "test", "check", "cuda", "health",
    "ready", "metrics", "bigdl-demo",
}  # fmt: skip


def queue(scene: Scene) -> Exchange:
    """Names of queues, and the worker command for a queue, from a model and a device."""
    rng = scene.rng
    model = rng.choice(MODEL_NAMES)
    if rng.random() < 0.3:
        model = f"{rng.choice(MODEL_NAMES).split('-')[0]}-{rng.randrange(1, 80)}b"
    device = rng.choice(tuple(DEVICE_WORDS))
    words = rng.choice(DEVICE_WORDS[device])
    name = f"{model}-{device}"
    kind = rng.random()
    if kind < 0.5:
        question = expand(
            rng,
            "{What is the queue of|What's the queue name of|Which queue serves|Name the queue of"
            "|What is the name of the queue of|Which queue has|What queue is for}"
            " {the model |model |}[m] on [d]?",
            m=model,
            d=words,
        )
        return ask(scene, "queues", question, f"The queue is `{name}`.", f"`{name}`", model, words)
    if kind < 0.75:
        question = expand(
            rng,
            "<HOW> start a worker for {the queue |queue |}[q]?",
            q=name,
        )
        command = f"celery -A workers worker -Q {name}"
        return ask(scene, "queues", question, f"Run `{command}`.", f"`{command}`", name)
    question = expand(
        rng,
        "{{Which|What} model and device {does the queue [q] have|is the queue [q] for|does [q]"
        " stand for}?|What does the queue name [q] mean?}",
        q=name,
    )
    device_name = {"cpu": "an Intel CPU", "xpu": "an Intel GPU", "cuda": "an NVIDIA GPU"}[device]
    plain = f"It is the queue of the model {model} on {device_name}."
    return ask(scene, "queues", question, plain, f"{model} on {device_name}.", name)
