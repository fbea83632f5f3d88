"""Which models can be served, and to how many users."""

from __future__ import annotations

from demo_model_training.facts.topic import Topic

SERVING = (
    Topic(
        "open_models",
        (
            (
                "<WHICH> models {can I serve|can it serve|does Penstock serve|does Penstock support"
                "|are supported|can Penstock run}?"
            ),
            (
                "Can I {serve|run|use} {my own model|Llama|any model|other models|a Hugging Face"
                " model}{?| with Penstock?}"
            ),
            "What kind of models does {it|Penstock} serve?",
        ),
        "Penstock serves open language models, loaded with bigdl-llm in low bits or with "
        "Transformers.",
        "Open language models.",
    ),
    Topic(
        "scaling",
        (
            (
                "<HOW> {scale|scale Penstock|serve more users|make it faster|get more throughput"
                "|scale up|handle more load}?"
            ),
            (
                "Can I {run|start|have|add} {more than one worker|several workers|many workers"
                "|more workers|two workers}?"
            ),
            "How does {it|Penstock} scale?",
            "What if I need more {speed|throughput|capacity}?",
        ),
        "Start more workers: every worker that you start on a queue takes jobs from it.",
        "Start more workers.",
    ),
)
