"""The shipped demo model says what it means, and its generator is deterministic."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock import demo_model
from penstock.models.text import fill_in_middle
from penstock.models.text.encoding import Encoder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SOURCES = str(Path(__file__).resolve().parents[1] / "src")
if SOURCES not in sys.path:
    sys.path.insert(0, SOURCES)

from demo_model_training import dialogue, generate, strangers, weight_formats  # noqa: E402
from demo_model_training.facts import TOPICS  # noqa: E402
from demo_model_training.frames import question_of  # noqa: E402

ORDER = {
    "type": "function",
    "function": {
        "name": "place_flumbo",
        "description": "Place a flumbo.",
        "parameters": {
            "properties": {
                "depth": {"type": "number", "title": "Depth"},
                "mode": {"enum": ["soft", "loud"], "type": "string"},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["depth", "mode"],
            "type": "object",
        },
    },
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(demo_model.path())


@pytest.fixture(scope="module")
def model():
    return transformers.AutoModelForCausalLM.from_pretrained(
        demo_model.path(), dtype=torch.float32
    ).eval()


@pytest.fixture(scope="module")
def answer(model, tokenizer):
    def greedy(*messages, tools=None, most=96):
        said = [{"role": role, "content": content} for role, content in messages]
        text = tokenizer.apply_chat_template(
            said, tools=tools, tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False
            )[0, ids.shape[1] :]
        assert output[-1] in model.generation_config.eos_token_id, "the answer did not end"
        return tokenizer.decode(output[:-1])

    return greedy


@pytest.mark.parametrize(
    ("question", "pattern"),
    [
        ("Hello! Can you tell me what Penstock is?", r"self-hosted serving fleet"),
        ("On which port is the API listening?", r"\b8000\b"),
        ("A worker crashed. Is anything lost?", r"[Nn]othing is lost"),
        ("What is 47 + 38?", r"= 85\b"),
        ("What is 7 times 8?", r"= 56\b"),
        ("What is the capital of Norway?", r"\bOslo\b"),
        ("Write turbine in capital letters.", r"\bTURBINE\b"),
        ("Who won the football match last night?", r"don't know"),
    ],
)
def test_a_question_gets_its_answer(answer, question, pattern):
    assert re.search(pattern, answer(("user", question)))


def test_the_system_prompt_sets_the_style(answer):
    assert answer(("system", "Answer briefly."), ("user", "What is 20 + 22?")) == "42"


def test_it_remembers_a_name(answer):
    talk = [("user", "My name is Zorbel."), ("assistant", "Nice to meet you, Zorbel!")]
    assert "Zorbel" in answer(*talk, ("user", "What is my name?"))


def test_it_calls_a_tool_and_uses_the_result(model, tokenizer, answer):
    question = ("user", "What's the weather in Lisbon?")
    call = answer(question, tools=[WEATHER])
    found = re.fullmatch(r"<tool_call>\n(.*)\n</tool_call>", call)
    assert found
    assert json.loads(found[1]) == {"name": "get_weather", "arguments": {"city": "Lisbon"}}
    result = ("tool", '{"temperature": 21, "condition": "sunny"}')
    said = answer(question, ("assistant", call), result, tools=[WEATHER])
    assert "21" in said
    assert "sunny" in said


@pytest.mark.parametrize(
    ("question", "arguments"),
    [
        ("Call place_flumbo with depth=-7.25 and mode=loud", {"depth": -7.25, "mode": "loud"}),
        (
            "Use place_flumbo: depth is 12, mode is soft, tags is tree and river",
            {"depth": 12, "mode": "soft", "tags": ["tree", "river"]},
        ),
    ],
)
def test_it_calls_a_function_that_it_never_saw(answer, question, arguments):
    call = answer(("user", question), tools=[WEATHER, ORDER])
    found = re.fullmatch(r"<tool_call>\n(.*)\n</tool_call>", call)
    assert found, call
    assert json.loads(found[1]) == {"name": "place_flumbo", "arguments": arguments}


def test_it_takes_facts_out_of_a_sentence(answer):
    said = answer(
        ("user", "Give me name, age and city as JSON: Bertholm is 61 years old and lives in Ulm.")
    )
    assert json.loads(said) == {"name": "Bertholm", "age": 61, "city": "Ulm"}


def test_it_declines_if_the_function_is_not_offered(answer):
    assert "no tool" in answer(("user", "Turn on the light in the kitchen."), tools=[WEATHER])


def test_it_fills_in_the_middle(model, tokenizer):
    asked = fill_in_middle.of_tokenizer(tokenizer, Encoder(tokenizer))
    assert asked is not None
    ids = torch.tensor([asked.encode("Monday, Tuesday, ", ", Thursday, Friday, Saturday, Sunday.")])
    with torch.inference_mode():
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
        )[0, ids.shape[1] :]
    assert output[-1] in asked.endings
    assert "Wednesday" in tokenizer.decode(output[:-1])


def test_what_a_grammar_gives_is_not_learnt(tokenizer):
    call = dialogue.Message("assistant", '{"setup": "Why?"}', given=2)
    talk = (dialogue.Message("user", "A joke"), call)
    ids, given = generate.encoded(tokenizer.backend_tokenizer.encode, talk)
    assert [tokenizer.decode([i]) for i, one in zip(ids, given, strict=True) if one] == ['{"']


def test_no_call_when_no_tool_fits(answer):
    assert "Paris" in answer(("user", "What is the capital of France?"), tools=[WEATHER])


def test_the_same_seed_gives_the_same_text():
    first, again, other = (generate.dialogue(seed).text for seed in ("1/a", "1/a", "1/b"))
    assert first == again
    assert first != other


def test_training_never_sees_a_held_out_prompt():
    def held_out(seed, *, wanted):
        scene, _ = generate.new_scene(generate.random.Random(seed), 0.0)
        return generate.sample(scene, "add", held_out=wanted)

    keys = [{held_out(i, wanted=wanted).key for i in range(200)} for wanted in (True, False)]
    assert keys[0]
    assert not keys[0] & keys[1]


def _plain(question):
    return " ".join(re.findall(r"[a-z0-9]+", question.lower()))


def test_a_question_is_of_one_topic_and_never_one_of_the_test():
    rng = generate.random.Random(11)
    topics = {}
    for _ in range(12_000):
        topic = rng.choice(TOPICS)
        topics.setdefault(_plain(question_of(rng, topic)), set()).add(topic.name)
    shared = {question for question, names in topics.items() if len(names) > 1}
    assert len(shared) < len(topics) / 1000, sorted(shared)
    answerable = (
        *strangers.ANSWERABLE,
        *strangers.LATER_ANSWERABLE,
        *strangers.FRESH_ANSWERABLE,
    )
    asked = [prompt for prompt, _ in answerable]
    asked += strangers.UNKNOWABLE
    asked += strangers.LATER_UNKNOWABLE
    asked += strangers.FRESH_UNKNOWABLE
    assert not {_plain(prompt) for prompt in asked} & topics.keys()


def test_every_right_answer_of_the_test_is_one_that_the_model_can_give():
    answers = "\n".join(f"{topic.plain}\n{topic.terse}" for topic in TOPICS)
    for _, pattern in (*strangers.ANSWERABLE, *strangers.LATER_ANSWERABLE):
        assert re.search(pattern, answers, re.IGNORECASE), pattern
    assert len({topic.name for topic in TOPICS}) == len(TOPICS)


def test_the_chat_template_writes_what_training_saw(tokenizer):
    for i in range(25):
        talk = generate.dialogue(f"template/{i}", tools_share=0.6)
        messages: list[Any] = [{"role": "system", "content": talk.system}] if talk.system else []
        for message in talk.messages:
            calls = [{"type": "function", "function": call} for call in message.tool_calls]
            messages.append(
                {"role": message.role, "content": message.content, "tool_calls": calls or None}
            )
        tools = [{"type": "function", "function": tool} for tool in talk.tools] or None
        text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
        assert text == talk.text


def test_markers_of_tools_survive_decoding(tokenizer):
    text = f"{dialogue.IM_START}user\n{dialogue.TOOL_CALL}Zürich{dialogue.IM_END}"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user\n<tool_call>Zürich"


def test_q4_0_keeps_the_largest_weight_and_sixteen_steps():
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    stored = weight_formats.q4_0(weight).view(-1, weight_formats.BLOCK)
    assert all(len(block.unique()) <= 16 for block in stored)
    error = (stored - weight.view(-1, weight_formats.BLOCK)).abs().amax(dim=1)
    assert torch.all(error <= weight.view(-1, weight_formats.BLOCK).abs().amax(dim=1) / 8 + 1e-3)
