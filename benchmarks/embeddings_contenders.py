# ruff: noqa: PLC0415 - a contender imports its own libraries only
"""One contender of `embeddings.py` in a process of its own, told what to do line by line.

Reads a JSON line `{"texts": [...]}` from standard input and answers with `{"seconds", "cpu_s"}`
(`cpu_s` is the process's own computing time), with the vectors too where the line says
`"vectors": true`. Tokenising counts.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from penstock.engine.events import AttemptEvent


class Contender(Protocol):
    """Makes a vector of each text."""

    def encode(self, texts: list[str]) -> list[list[float]]:
        """Return the texts' vectors in their order."""
        ...


class Ours:
    """Penstock's encoder engine in this process; texts are prepared by one thread, as in a worker."""

    def __init__(self, folder: Path, threads: int) -> None:
        from penstock.contract.events import Failed, Finished
        from penstock.engine.encoder_engine import EncoderEngine
        from penstock.models import devices
        from penstock.models.backends.encoders import loading
        from penstock.models.spec import ModelSpec
        from penstock.settings import Settings

        settings = Settings(threads=threads)
        devices.set_threads(threads)
        spec = ModelSpec("bench", "bench-cpu", "cpu", None, folder, "transformers", format="fp32")
        loaded = loading.load(spec, settings, slots=None, progress=lambda *_: None)
        self._tokenizer = loaded.tokenizer
        self._found: dict[str, str] = {}

        def sink(events: list[AttemptEvent]) -> None:
            for event in (one.event for one in events):
                if isinstance(event, Failed):
                    raise SystemExit(event.message)
                if isinstance(event, Finished):
                    self._found[event.job_id] = event.embedding

        self._engine = EncoderEngine(
            loaded.encoder, slots=loaded.card.slots, batch_tokens=loaded.batch_tokens, sink=sink
        )
        self._engine.start()

    def encode(self, texts: list[str]) -> list[list[float]]:
        """Return the texts' vectors in their order."""
        import base64
        from array import array

        from penstock.contract.job import Sampling, TextPrompt
        from penstock.engine.sequence import SequenceRequest

        self._found.clear()
        nothing = Sampling(seed=0, temperature=0, max_tokens=0)
        for job, text in enumerate(texts):
            ids = self._tokenizer.encode(TextPrompt(text))
            self._engine.submit(SequenceRequest(str(job), ids, nothing, embeds=True))
        while len(self._found) < len(texts):
            if self._engine.failure is not None:
                raise self._engine.failure
            time.sleep(0.001)
        return [
            array("f", base64.b64decode(self._found[str(job)])).tolist()
            for job in range(len(texts))
        ]


class SentenceTransformers:
    """sentence-transformers as its documentation uses it: batches of 32, sorted by length."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        from sentence_transformers import (  # pyright: ignore[reportMissingImports]
            SentenceTransformer,
        )

        torch.set_num_threads(threads)
        self._model = SentenceTransformer(str(folder), device="cpu")

    def encode(self, texts: list[str]) -> list[list[float]]:
        """Return the texts' vectors in their order."""
        found: Any = self._model.encode(texts, batch_size=32, show_progress_bar=False)
        return found.tolist()


CONTENDERS: dict[str, Any] = {"penstock": Ours, "sentence-transformers": SentenceTransformers}


def main() -> None:
    """Answer every line of standard input; an empty object first, when all is loaded."""
    name, folder, threads = sys.argv[1:]
    contender: Contender = CONTENDERS[name](Path(folder), int(threads))
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        vectors = contender.encode(asked["texts"])
        answer: dict[str, Any] = {
            "seconds": time.perf_counter() - started_s,
            "cpu_s": time.process_time() - started_cpu_s,
        }
        if asked.get("vectors"):
            answer["vectors"] = vectors
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
