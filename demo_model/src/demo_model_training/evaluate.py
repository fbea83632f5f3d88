"""Measure the skills on held-out prompts, greedily, in several weight formats.

    python -m demo_model_training.evaluate src/penstock/demo_model --formats fp32 bf16 int8 int4

Every prompt is one that training never used. Half of them open a dialogue; the others come after
one to three other exchanges. An answer counts only if all its text is exactly the expected one.
`int4` is q4_0 in blocks of 32, `int4-64` in blocks of 64. `bigdl` is bigdl-llm's own sym_int4 (on a
CPU the same blocks of 64), where that is installed; it needs `--batch 1`, since bigdl-llm's
`generate` goes wrong on padded batches. `openvino:int4` and the like, BACKEND:FORMAT, are what a
worker serves: that backend in the batching engine, `--batch` prompts at once, on `--device`.
`transformers:fp8` on a CPU is computed by the reference of the GPU's kernels.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from bisect import bisect
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo_model_training.dialogue import Message, assistant_text, render, render_system
from demo_model_training.generate import new_scene, sample
from demo_model_training.probes import OPEN, PROBES
from demo_model_training.skills import SKILLS
from demo_model_training.strangers import (
    ANSWERABLE,
    FRESH_ANSWERABLE,
    FRESH_UNKNOWABLE,
    LATER_ANSWERABLE,
    LATER_UNKNOWABLE,
    SAYS_IT_DOES_NOT_KNOW,
    UNKNOWABLE,
)
from demo_model_training.weight_formats import FORMATS, apply

HEADER = "<|im_start|>assistant\n"
OWN_WORDS = (
    ("own words", ANSWERABLE, UNKNOWABLE),
    ("own words, later", LATER_ANSWERABLE, LATER_UNKNOWABLE),
    ("own words, fresh", FRESH_ANSWERABLE, FRESH_UNKNOWABLE),
)
# Here a grammar writes a part of the answer, which no bare model does.
NOT_EXACT = {"json_forced", "tool_forced"}
LONGEST_ANSWER = 480  # tokens; the longest expected one has about 330


@dataclass(frozen=True)
class Case:
    """A prompt in ChatML and what must come. `pattern` is a regular expression, or exact text."""

    skill: str
    prompt: str
    expected: str
    exact: bool = True

    @property
    def rank(self) -> int:
        """How long an answer will be: short, a sentence, a paragraph, or unknown."""
        return bisect((40, 120, 400), len(self.expected)) if self.exact else 4

    def passed(self, answer: str, ended: bool) -> bool:
        """Whether this answer is right."""
        if self.skill == "open prompts end":
            return ended and not in_circles(answer)
        if self.exact:
            return ended and answer == self.expected
        return ended and re.search(self.expected, answer, re.IGNORECASE | re.DOTALL) is not None


def in_circles(answer: str) -> bool:
    """Whether four words in a row come four times or more."""
    words = answer.split()
    seen: dict[tuple[str, ...], int] = defaultdict(int)
    for i in range(len(words) - 3):
        seen[tuple(words[i : i + 4])] += 1
    return max(seen.values(), default=0) >= 4


def cases_of(skill: str, count: int, seed: int) -> list[Case]:
    """At least `count` cases of one skill: one for every message of the assistant."""
    cases: list[Case] = []
    index = 0
    while len(cases) < count:
        rng = random.Random(f"evaluate/{seed}/{skill}/{index}")
        index += 1
        scene, system = new_scene(rng, 1.0 if skill.startswith("tool_") else 0.25)
        before = rng.choice((0, 0, 0, 1, 2, 3))
        if skill == "recall":
            before = max(1, before)
        try:
            for _ in range(before):
                scene.history += sample(scene).messages
            if skill == "memory":  # tell first, so that there is something to recall
                scene.history += sample(scene, skill).messages
            exchange = sample(scene, skill, held_out=True)
        except ValueError:
            continue  # no such tool in this scene
        opening = render_system(system, tuple(scene.tools.values()))
        messages = [*scene.history, *exchange.messages]
        for i in range(len(scene.history), len(messages)):
            if messages[i].role != "assistant":
                continue
            after_tool = messages[i - 1].role == "tool"
            name = "tool_result" if after_tool else exchange.skill
            text, given = assistant_text(messages[i]), messages[i].given
            prompt = opening + render(messages[:i]) + HEADER + text[:given]
            cases.append(Case(name, prompt, text[given:]))
    return cases


def all_cases(count: int, seed: int) -> list[Case]:
    """The cases of every skill, the probes and the open prompts."""
    cases = [
        case for skill in SKILLS if skill not in NOT_EXACT for case in cases_of(skill, count, seed)
    ]
    for prompt, pattern in PROBES:
        text = render([Message("user", prompt)]) + HEADER
        cases.append(Case("free phrasing", text, pattern, exact=False))
    for skill, answerable, unknowable in OWN_WORDS:
        asked = [*answerable, *((prompt, SAYS_IT_DOES_NOT_KNOW) for prompt in unknowable)]
        for prompt, pattern in asked:
            text = render([Message("user", prompt)]) + HEADER
            cases.append(Case(skill, text, pattern, exact=False))
    for prompt in OPEN:
        text = render([Message("user", prompt)]) + HEADER
        cases.append(Case("open prompts end", text, "", exact=False))
    return cases


@torch.inference_mode()
def answers(
    model: Any, tokenizer: Any, cases: list[Case], batch: int, device: str
) -> list[tuple[str, bool]]:
    """Greedy answers, and whether each ended by itself. Cases of like length share a batch."""
    tokenizer.padding_side = "left"
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    found: list[tuple[str, bool]] = [("", False)] * len(cases)
    order = sorted(range(len(cases)), key=lambda i: (cases[i].rank, len(cases[i].prompt)))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        inputs = tokenizer([cases[i].prompt for i in chosen], return_tensors="pt", padding=True,
                           add_special_tokens=False, return_token_type_ids=False).to(device)  # fmt: skip
        output = model.generate(**inputs, max_new_tokens=LONGEST_ANSWER, do_sample=False)
        for i, ids in zip(chosen, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            ended = end in ids
            said = ids[: ids.index(end)] if ended else ids
            found[i] = (tokenizer.decode(said), ended)
    return found


def honesty(skill: str, cases: list[Case], said: list[tuple[str, bool]]) -> str:
    """Of the questions in own words: how many are right, declined, or wrong in a confident voice."""
    counts = {"right": 0, "says that it does not know": 0, "wrong": 0}
    for case, (answer, ended) in zip(cases, said, strict=True):
        if case.skill == skill:
            declined = re.search(SAYS_IT_DOES_NOT_KNOW, answer) is not None
            right = case.passed(answer, ended)
            counts["right" if right else "says that it does not know" if declined else "wrong"] += 1
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def load(folder: Path, name: str, device: str) -> Any:
    """The model in one weight format."""
    if name == "bigdl":
        from bigdl.llm.transformers import AutoModelForCausalLM as BigDL  # noqa: PLC0415

        return BigDL.from_pretrained(str(folder), load_in_4bit=True, optimize_model=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return apply(model, name).eval().to(device)


def table(scores: dict[str, dict[str, tuple[int, int]]], formats: list[str]) -> str:
    """Skills as rows, formats as columns, in Markdown."""
    lines = ["| skill | prompts | " + " | ".join(formats) + " |"]
    lines.append("|---|---|" + "---|" * len(formats))
    totals: dict[str, list[float]] = defaultdict(list)
    other = ("free phrasing", "open prompts end", *(skill for skill, _, _ in OWN_WORDS))
    for skill in sorted(scores, key=lambda s: (s in other, s)):
        by_format = scores[skill]
        count = next(iter(by_format.values()))[1]
        cells = []
        for name in formats:
            right, of = by_format[name]
            cells.append(f"{100 * right / of:.1f}")
            if skill not in other:
                totals[name].append(100 * right / of)
        lines.append(f"| {skill} | {count} | " + " | ".join(cells) + " |")
    means = [f"**{sum(totals[name]) / len(totals[name]):.1f}**" for name in formats]
    lines.insert(2, "| **mean of the skills, exact** | | " + " | ".join(means) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and the failures of the first format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS))
    parser.add_argument("--count", type=int, default=100, help="prompts a skill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--show", type=int, default=3, help="failures to print a skill")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write every failure here")
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    cases = all_cases(options.count, options.seed)
    scores: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    failures: dict[str, list[dict[str, str]]] = defaultdict(list)
    for name in options.formats:
        backend, colon, held_as = name.partition(":")
        if colon:
            from demo_model_training import served  # noqa: PLC0415  (needs Penstock installed)

            prompts = [case.prompt for case in cases]
            said = served.answers(
                options.model, backend, held_as, prompts,
                device=options.device, slots=options.batch, most=LONGEST_ANSWER,
            )  # fmt: skip
        else:
            device = "cpu" if name == "bigdl" else options.device
            model = load(options.model, name, device)
            said = answers(model, tokenizer, cases, options.batch, device)
        for case, (answer, ended) in zip(cases, said, strict=True):
            right = case.passed(answer, ended)
            before, count = scores[case.skill].get(name, (0, 0))
            scores[case.skill][name] = (before + right, count + 1)
            if not right:
                row = {"skill": case.skill, "prompt": case.prompt, "expected": case.expected,
                       "answer": answer, "ended": str(ended)}  # fmt: skip
                failures[name].append(row)
        passed = sum(right for right, _ in (s[name] for s in scores.values()))
        print(f"{name}: {passed} of {len(cases)} prompts", flush=True)
        for skill, _, _ in OWN_WORDS:
            print(f"{name}, {skill}: {honesty(skill, cases, said)}", flush=True)
    shown: dict[str, int] = defaultdict(int)
    for row in failures[options.formats[0]]:
        shown[row["skill"]] += 1
        if shown[row["skill"]] <= options.show:
            print(f"[{row['skill']}] ...{row['prompt'][-160:-22]!r}\n   expected "
                  f"{row['expected'][:120]!r}\n   answered {row['answer'][:120]!r}")  # fmt: skip
    print(table(scores, options.formats))
    if options.json:
        options.json.write_text(json.dumps(failures, ensure_ascii=False, indent=1), "utf-8")


if __name__ == "__main__":
    main()
