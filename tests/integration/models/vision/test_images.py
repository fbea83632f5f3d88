"""Images in prompts: the answers of tiny checkpoints are those of `generate` on the whole model."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
import transformers

from penstock.contract.job import ChatPrompt, Sampling
from penstock.contract.worker import IMAGES
from penstock.engine.engine import Engine
from penstock.engine.model import Batch, Mutual, SequenceSlice
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
        alone = self.kind.startswith("minicpm")
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

    def whole_inputs(self, name: str) -> Any:
        """What the whole model takes for a chat."""
        from PIL import Image

        messages, pictures = CHATS[name]
        text = self.loaded.tokenizer.render(ChatPrompt(messages))
        opened = [Image.open(BytesIO(one)).convert("RGB") for one in pictures]
        return self.inputs(text, opened)

    @torch.inference_mode()
    def generate_with_logits(self, name: str) -> tuple[list[int], list[torch.Tensor]]:
        """The answer of the whole model, and the logits of each of its tokens."""
        inputs = self.whole_inputs(name)
        made = self.reference.generate(
            **inputs, max_new_tokens=ANSWER, min_new_tokens=ANSWER, do_sample=False,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        answer = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        return answer, [row[0].float() for row in made.logits]

    def logits(self, name: str) -> torch.Tensor:
        """The logits of an answer's first token."""
        return self.prompt_logits(name)[-1]

    def prompt_logits(self, name: str) -> torch.Tensor:
        """The logits after each token of a prompt in one piece, (tokens, vocab)."""
        request = self.request(name, name)
        tokens = len(request.prompt_token_ids)
        blocks = range(-(-tokens // self.loaded.model.kv_layout.block_size))
        part = SequenceSlice(
            0, request.prompt_token_ids, 0, list(blocks), 0, images=request.images, state=0
        )
        rows = self.loaded.model.forward(Batch([part]))
        self.loaded.model.release(0)
        return rows.cpu()

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
    return serve(folder)


@pytest.fixture(scope="module", autouse=True)
def _whole_llama_4() -> Iterator[None]:
    """In Transformers 5.24 its forward reads what its language model's output does not have."""
    output: Any = importlib.import_module("transformers.modeling_outputs")
    with pytest.MonkeyPatch.context() as patch:
        kind = output.MoeCausalLMOutputWithPast
        patch.setattr(kind, "image_outputs", None, raising=False)
        yield


def load(folder: Path, queue: str = "", **stated: Any) -> LoadedModel:
    """A folder as a worker loads it; `stated` are fields of its specification."""
    settings = settings_for(folder)
    spec = replace(resolve(queue or f"{folder.name}-cpu", settings), **stated)
    return loader.load(spec, settings, slots=4, progress=lambda *_: None)


def serve(folder: Path, queue: str = "", **stated: Any) -> Served:
    """A folder as a worker loads it, beside Transformers' whole model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load(folder, queue, **stated)
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


def error_of(served: Served, name: str, wanted: torch.Tensor) -> float:
    """The relative error of the logits of an answer's first token."""
    found = served.logits(name)
    return float((found - wanted).norm() / (wanted - wanted.mean()).norm())


def test_answers_are_those_of_generate(served: Served) -> None:
    names = served.names(list(CHATS))
    assert IMAGES in served.loaded.card.capabilities
    whole = [served.generate_with_logits(name) for name in names]
    bound = bound_of(served)
    for name, answer, (wanted, rows) in zip(names, served.answers(names), whole, strict=True):
        assert gap(answer, wanted, rows) < bound, name
    for name, (_, rows) in zip(names, whole, strict=True):
        assert error_of(served, name, rows[0]) < bound, name


def test_a_prompt_in_chunks_beside_a_running_answer(served: Served) -> None:
    """Chunks cut images in two; a second turn finds the first one's blocks."""
    names = served.names(["one", "two in two turns", "another", "two in two turns"])
    whole = [served.generate_with_logits(name) for name in names]
    options = replace(served.loaded.options, prefill_chunk_tokens=7, target_step_ms=None)
    chunked = replace(served, loaded=replace(served.loaded, options=options))
    answers = chunked.answers(names[:1], names[1:2], names[2:])
    for name, answer, (wanted, rows) in zip(names, answers, whole, strict=True):
        assert gap(answer, wanted, rows) < bound_of(served), name


@pytest.mark.parametrize("kind", ["llava", "mistral3", "qwen2_5_vl", "qwen3_vl"])
def test_by_openvino(kind: str, tmp_path: Path) -> None:
    """Which computes 4 bit where the native kernels are slower, or not there."""
    pytest.importorskip("openvino")
    served = serve(vision.write(kind, tmp_path / kind), backend="openvino", format="fp32")
    card = served.loaded.card
    assert (card.running, card.format) == ("openvino", "fp32")
    assert IMAGES in card.capabilities
    for name, answer in zip(CHATS, served.answers(list(CHATS)), strict=True):
        wanted, rows = served.generate_with_logits(name)
        assert gap(answer, wanted, rows) < 1e-3, name
        assert error_of(served, name, rows[0]) < 1e-3, name
    answers = served.answers(list(CHATS))
    options = replace(served.loaded.options, prefill_chunk_tokens=7, target_step_ms=None)
    chunked = replace(served, loaded=replace(served.loaded, options=options))
    assert chunked.answers(list(CHATS)) == answers


def test_a_graph_that_takes_no_images(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    folder = vision.write("llava", tmp_path / "llava")
    loaded = load(folder, backend="openvino", format="fp32", images=False)
    assert loaded.vision is None
    assert IMAGES not in loaded.card.capabilities
    assert cast("Any", loaded.model).take_images(None, mutual=Mutual.NOWHERE) is False


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
    served = serve(vision.write(kind, tmp_path / kind), f"bigdl-{kind}-cpu")
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


@pytest.mark.parametrize(("kind", "bound"), [("qwen3_vl_moe", 0.05), ("qwen3_5_moe", 0.1)])
def test_experts_in_four_bit_by_the_native_kernels(kind: str, bound: float, tmp_path: Path) -> None:
    """Beside the same weights in fp32. Activations are in INT8: where two experts score alike, that
    turns a token's choice, and its logits with it; so most tokens are compared, not each.
    """
    from tests.integration.models.native.test_native_mixtures import errors, round_weights

    served = serve(vision.write(kind, tmp_path / kind), f"bigdl-{kind}-cpu")
    card = served.loaded.card
    if card.backend != "native":
        pytest.skip(f"this CPU's 4 bit is for {card.backend}")
    assert card.format == "sym_int4"
    assert IMAGES in card.capabilities
    whole = served.reference.requires_grad_(requires_grad=False)
    whole.lm_head.weight = torch.nn.Parameter(whole.lm_head.weight.clone(), requires_grad=False)
    for part in (whole.get_decoder(), whole.lm_head):
        round_weights(part, "sym_int4")
    for name in CHATS:
        with torch.inference_mode():
            wanted = whole(**served.whole_inputs(name)).logits[0]
        assert errors(served.prompt_logits(name), wanted).median() < bound, name
    assert served.answers(list(CHATS)) == [served.answers([name])[0] for name in CHATS]


def _without_towers(whole: Any) -> dict[str, Any]:
    """Take all but the decoder out of a model, so that it stays as it is."""
    names = [name for name, part in whole.model.named_children() if part is not whole.get_decoder()]
    towers = {name: getattr(whole.model, name) for name in names}
    for name in names:
        setattr(whole.model, name, torch.nn.Identity())
    return towers
