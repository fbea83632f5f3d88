r"""Time to the first token of prompts with images, beside Transformers' `generate`.

    python -m benchmarks.images            # a LLaVA 1.5 of some 100 million random weights
    python -m benchmarks.images --rounds 7 --device cuda

Our whole engine in this process (processor, vision tower, decoder) and `generate` on the whole
checkpoint, on the same images and in turns, so that a change of the machine's mood meets both:
1 and 8 images of 336 x 336 in one prompt, seen for the first time, and for ours once more with the
last word of the question changed, as the next turn of a conversation is. Printed are medians and the
ratios of theirs to ours. Before, both must choose the same first token.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from benchmarks import conditions
from penstock.contract.job import ChatPrompt, Sampling
from penstock.engine.engine import Engine
from penstock.engine.sequence import SequenceRequest
from penstock.models import loader
from penstock.models.catalogue.resolve import resolve
from penstock.models.vision import processors
from penstock.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.engine.events import AttemptEvent
    from penstock.models.loader import LoadedModel

SIDE, PATCH = 336, 14
WORDS = ("<unk>", "<s>", "</s>", "<image>", "USER:", "ASSISTANT:", "what", "is", "this", "that")
TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %} "
    "{% endfor %}{% endfor %}ASSISTANT:"
)
COUNTS = (1, 8)


def write(folder: Path, hidden: int, layers: int) -> Path:
    """Write a LLaVA 1.5 with a CLIP tower of 336 pixels and a Llama, both smaller than published."""
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415 - needed here only

    torch.manual_seed(0)
    text = transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=hidden, intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers, num_attention_heads=hidden // 64, max_position_embeddings=8192,
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=6, num_attention_heads=8,
        image_size=SIDE, patch_size=PATCH,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=WORDS.index("<image>")
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<image>"], chat_template=TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    own = {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIDE},
        "crop_size": {"height": SIDE, "width": SIDE},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(own))
    processor = {
        "processor_class": "LlavaProcessor", "patch_size": PATCH,
        "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1,
    }  # fmt: skip
    (folder / "processor_config.json").write_text(json.dumps(processor))
    return folder


def pictures(count: int, seed: int) -> list[bytes]:
    """Return random images that no earlier call has returned, as PNG."""
    from PIL import Image  # noqa: PLC0415

    generator = torch.Generator().manual_seed(seed)
    made: list[bytes] = []
    for _ in range(count):
        pixels = torch.randint(256, (SIDE, SIDE, 3), generator=generator, dtype=torch.uint8)
        out = BytesIO()
        Image.fromarray(pixels.numpy()).save(out, "PNG")
        made.append(out.getvalue())
    return made


def chat(count: int, word: str) -> ChatPrompt:
    """Return a question about so many images."""
    images = [{"type": "image"} for _ in range(count)]
    content = [*images, {"type": "text", "text": f"what is {word}"}]
    return ChatPrompt(({"role": "user", "content": content},))


class Ours:
    """Our engine, from a chat and its images' bytes to the first token."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._engine = Engine(loaded.model, loaded.tokenizer, loaded.options, self._take)
        self._tokens: list[int] = []
        self._count = 0

    def _take(self, events: list[AttemptEvent]) -> None:
        for one in events:
            self._tokens += getattr(one.event, "token_ids", ())

    def first_token(self, prompt: ChatPrompt, images: Sequence[bytes]) -> tuple[float, int]:
        """Return the seconds to the first token, and it."""
        assert self._loaded.vision is not None
        self._tokens.clear()
        self._count += 1
        began_s = time.perf_counter()
        token_ids, inputs = self._loaded.vision(prompt, images)
        sampling = Sampling(seed=1, temperature=0.0, max_tokens=1, ignore_eos=True)
        key = str(self._count)
        self._engine.submit(SequenceRequest(key, token_ids, sampling, images=inputs))
        while self._engine.turn() or not self._tokens:
            pass
        return time.perf_counter() - began_s, self._tokens[0]


class Theirs:
    """Transformers: the processor and `generate` of the whole checkpoint."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        kind: Any = transformers.AutoModelForImageTextToText
        self._model: Any = kind.from_pretrained(folder, dtype=dtype).to(device).eval()
        self._processor = processors.load(folder)
        self._device = device

    @torch.inference_mode()
    def first_token(self, text: str, images: Sequence[bytes]) -> tuple[float, int]:
        """Return the seconds to the first token, and it."""
        from PIL import Image  # noqa: PLC0415

        began_s = time.perf_counter()
        opened = [Image.open(BytesIO(one)).convert("RGB") for one in images]
        inputs = self._processor(text=[text], images=opened, return_tensors="pt").to(self._device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        made = self._model.generate(**inputs, max_new_tokens=1, do_sample=False)
        token = int(made[0, -1])
        return time.perf_counter() - began_s, token


def measure(loaded: LoadedModel, theirs: Theirs, rounds: int) -> dict[str, Any]:
    """Return the medians in milliseconds and their ratios, by count of images."""
    ours = Ours(loaded)
    result: dict[str, Any] = {}
    seed = 0
    for count in COUNTS:
        times: dict[str, list[float]] = {"ours": [], "ours_again": [], "theirs": []}
        same = 0
        for number in range(rounds + 1):
            seed += 1
            images = pictures(count, seed)
            prompt = chat(count, "this")
            text = loaded.tokenizer.render(prompt)
            taken = {
                "ours": ours.first_token(prompt, images),
                "ours_again": ours.first_token(chat(count, "that"), images),
                "theirs": theirs.first_token(text, images),
            }
            same += taken["ours"][1] == taken["theirs"][1]
            if number:  # the first round warms up
                for name, (seconds, _) in taken.items():
                    times[name].append(seconds)
        medians = {name: 1000 * statistics.median(one) for name, one in times.items()}
        result[str(count)] = {
            **{f"{name}_ms": round(one, 1) for name, one in medians.items()},
            "ratio": round(medians["theirs"] / medians["ours"], 2),
            "ratio_again": round(medians["theirs"] / medians["ours_again"], 2),
            "same_first_token": f"{same} of {rounds + 1}",
        }
    return result


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/images-*.json"
    )
    asked = parser.parse_args()
    seen = conditions.observe()
    conditions.show(seen)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = write(Path(scratch) / "llava", asked.hidden, asked.layers)
        settings = Settings(models_dir=folder.parent)
        loaded = loader.load(
            resolve(f"llava-{asked.device}", settings), settings, slots=4, progress=_silent
        )
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
            loaded.card.format, torch.float32
        )
        result = measure(loaded, Theirs(folder, asked.device, dtype), asked.rounds)
    for count, row in result.items():
        print(
            f"{count} images: first token after {row['ours_ms']} ms, {row['ours_again_ms']} ms the "
            f"second time; generate {row['theirs_ms']} ms: ratios {row['ratio']}, "
            f"{row['ratio_again']}; same first token {row['same_first_token']}"
        )
    if asked.save:
        about = {"running": loaded.card.running, "format": loaded.card.format}
        shape = {"hidden": asked.hidden, "layers": asked.layers, "device": asked.device}
        print(conditions.save("images", seen, {**about, **shape, "images": result}))


def _silent(*_: Any) -> None:
    pass


if __name__ == "__main__":
    main()
