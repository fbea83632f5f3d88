"""Images in prompts: the answers of tiny checkpoints are those of `generate` on the whole model."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

from penstock.contract.job import ChatPrompt, Sampling
from penstock.contract.worker import IMAGES
from penstock.engine.engine import Engine
from penstock.engine.model import Batch, SequenceSlice
from penstock.engine.sequence import SequenceRequest
from penstock.models import loader
from penstock.models.catalogue.resolve import resolve
from tests.architectures.serve import ROUNDING, settings_for
from tests.fixtures import vision
from tests.fixtures.engine import Transcript

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from penstock.models.loader import LoadedModel

ANSWER = 8

FIRST, SECOND = vision.picture(1), vision.picture(2, 60, 100, "JPEG")
CHATS: dict[str, tuple[tuple[dict[str, Any], ...], tuple[bytes, ...]]] = {
    "one": (
        ({"role": "user", "content": [
            {"type": "image"}, {"type": "text", "text": "What is the answer?"},
        ]},),
        (FIRST,),
    ),
    "two in two turns": (
        (
            {"role": "user", "content": [
                {"type": "image"}, {"type": "text", "text": "What is the answer?"},
            ]},
            {"role": "assistant", "content": "The answer is seven."},
            {"role": "user", "content": [
                {"type": "text", "text": "and of this "}, {"type": "image"},
            ]},
        ),
        (FIRST, SECOND),
    ),
    "another": (
        ({"role": "user", "content": [
            {"type": "image"}, {"type": "text", "text": "What is the answer?"},
        ]},),
        (SECOND,),
    ),
    "text": (({"role": "user", "content": "Paris is the capital of"},), ()),
}  # fmt: skip


@dataclass
class Served:
    loaded: LoadedModel
    reference: Any
    inputs: vision.Inputs
    kind: str

    def names(self, chats: Sequence[str]) -> list[str]:
        """Those of some chats that `generate` answers by reading each image for itself.

        Transformers 5.24 reads the second image of a MiniCPM's prompt differently than alone.
        """
        alone = self.kind == "minicpmv4_6"
        return [name for name in chats if not (alone and len(CHATS[name][1]) > 1)]

    def request(self, name: str, key: str) -> SequenceRequest:
        messages, pictures = CHATS[name]
        assert self.loaded.vision is not None
        prompt = ChatPrompt(messages)
        token_ids, images = self.loaded.tokenizer.encode(prompt), None
        if pictures:
            token_ids, images = self.loaded.vision(prompt, pictures)
        sampling = Sampling(seed=1, temperature=0.0, max_tokens=ANSWER, ignore_eos=True)
        return SequenceRequest(key, token_ids, sampling, images=images)

    @torch.inference_mode()
    def generate_with_logits(self, name: str) -> tuple[list[int], list[torch.Tensor]]:
        """The answer of the whole model, and the logits of each of its tokens."""
        from PIL import Image

        messages, pictures = CHATS[name]
        text = self.loaded.tokenizer.render(ChatPrompt(messages))
        opened = [Image.open(BytesIO(one)).convert("RGB") for one in pictures]
        inputs = self.inputs(text, opened)
        made = self.reference.generate(
            **inputs, max_new_tokens=ANSWER, min_new_tokens=ANSWER, do_sample=False,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        answer = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        return answer, [row[0].float() for row in made.logits]

    def logits(self, name: str) -> torch.Tensor:
        """The logits of an answer's first token, of a prompt in one piece."""
        request = self.request(name, name)
        tokens = len(request.prompt_token_ids)
        blocks = range(-(-tokens // self.loaded.model.kv_layout.block_size))
        part = SequenceSlice(
            0, request.prompt_token_ids, 0, list(blocks), tokens - 1, images=request.images, state=0
        )
        (row,) = self.loaded.model.forward(Batch([part]))
        self.loaded.model.release(0)
        return row

    def answers(self, *batches: Sequence[str]) -> list[list[int]]:
        """The engine's answers to chats, each batch submitted together, all in one engine."""
        transcript = Transcript()
        engine = Engine(self.loaded.model, self.loaded.tokenizer, self.loaded.options, transcript)
        keys: list[str] = []
        for number, batch in enumerate(batches):
            requests = [self.request(name, f"{number}-{name}") for name in batch]
            keys += [request.job_id for request in requests]
            engine.submit(*requests)
            for _ in range(3):
                engine.turn()
        while engine.turn():
            pass
        return [transcript.tokens[key] for key in keys]


@pytest.fixture(scope="module", params=sorted(vision.KINDS))
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = vision.write(request.param, tmp_path_factory.mktemp("vision") / request.param)
    return _served(folder)


@pytest.fixture(scope="module", autouse=True)
def _whole_llama_4() -> Iterator[None]:
    """In Transformers 5.24 its forward reads what its language model's output does not have."""
    output: Any = importlib.import_module("transformers.modeling_outputs")
    with pytest.MonkeyPatch.context() as patch:
        kind = output.MoeCausalLMOutputWithPast
        patch.setattr(kind, "image_outputs", None, raising=False)
        yield


def _served(folder: Path, prefix: str = "") -> Served:
    settings = settings_for(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = resolve(f"{prefix}{folder.name}-cpu", settings)
        loaded = loader.load(spec, settings, slots=4, progress=lambda *_: None)
        reference = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    reference.generation_config.eos_token_id = None  # answers have one length, whatever is in them
    if loaded.vision is None:
        pytest.fail("no vision part was loaded")
    return Served(loaded, reference, vision.Inputs(folder), folder.name)


def bound_of(served: Served) -> float:
    """The native kernels keep keys and values in fp16."""
    return 1e-3 if served.loaded.card.running == "native" else 1e-4


def gap(answer: Sequence[int], wanted: Sequence[int], rows: Sequence[torch.Tensor]) -> float:
    """How much better the wanted token is where an answer first has another, in deviations."""
    place = next((i for i in range(ANSWER) if answer[i] != wanted[i]), None)
    if place is None:
        return 0.0
    row = rows[place]
    return float((row[wanted[place]] - row[answer[place]]).abs() / row.std())


def test_answers_are_those_of_generate(served: Served) -> None:
    names = served.names(list(CHATS))
    assert IMAGES in served.loaded.card.capabilities
    whole = [served.generate_with_logits(name) for name in names]
    bound = bound_of(served)
    for name, answer, (wanted, rows) in zip(names, served.answers(names), whole, strict=True):
        assert gap(answer, wanted, rows) < bound, name
    for name, (_, rows) in zip(names, whole, strict=True):
        error = (served.logits(name) - rows[0]).norm() / (rows[0] - rows[0].mean()).norm()
        assert error < bound, name


def test_a_prompt_in_chunks_beside_a_running_answer(served: Served) -> None:
    """Chunks cut images in two; a second turn finds the first one's blocks."""
    names = served.names(["one", "two in two turns", "another", "two in two turns"])
    whole = [served.generate_with_logits(name) for name in names]
    options = replace(served.loaded.options, prefill_chunk_tokens=7, target_step_ms=None)
    chunked = replace(served, loaded=replace(served.loaded, options=options))
    answers = chunked.answers(names[:1], names[1:2], names[2:])
    for name, answer, (wanted, rows) in zip(names, answers, whole, strict=True):
        assert gap(answer, wanted, rows) < bound_of(served), name


@pytest.mark.parametrize(
    "kind",
    [
        "llava",
        "idefics3",
        "qwen2_5_vl",
        "qwen3_vl",
        "qwen3_5",
        "gemma4",
        "mistral3",
    ],
)
def test_in_four_bit_by_the_native_kernels(kind: str, tmp_path: Path) -> None:
    """As `generate` on the same blocks; a token may differ where two are as good as one."""
    bigdl = pytest.importorskip("penstock.models.backends.bigdl")
    served = _served(vision.write(kind, tmp_path / kind), prefix="bigdl-")
    if served.loaded.card.backend != "native":
        pytest.skip(f"this CPU's 4 bit is for {served.loaded.card.backend}")
    whole = served.reference
    quantiser = bigdl.Quantiser(bigdl.import_library(), "sym_int4")
    for part in (whole.get_decoder(), whole):  # the head is the whole's own
        towers = {} if part is not whole else _without_towers(whole)
        quantiser.convert(part, lambda *_: None)
        for name, tower in towers.items():
            setattr(whole.model, name, tower)
    names = list(CHATS)
    for name, answer in zip(names, served.answers(names), strict=True):
        assert gap(answer, *served.generate_with_logits(name)) < 2 * ROUNDING, name


def _without_towers(whole: Any) -> dict[str, Any]:
    """Take all but the decoder out of a model, so that it stays as it is."""
    names = [name for name, part in whole.model.named_children() if part is not whole.get_decoder()]
    towers = {name: getattr(whole.model, name) for name in names}
    for name in names:
        setattr(whole.model, name, torch.nn.Identity())
    return towers
