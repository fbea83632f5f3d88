"""From a model's spec to a loaded model and its queue, or to one clear line."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from celery.utils.log import get_logger

from penstock.engine.drafting.answer_index import AnswerIndex
from penstock.engine.encoder_engine import EncoderEngine
from penstock.engine.engine import Engine
from penstock.errors import StartupError, first_line
from penstock.models import loader
from penstock.models.backends import encoders
from penstock.models.backends.encoders import LoadedEncoder
from workers.serving.served_queue import ServedQueue, Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from penstock.contract.worker import ModelCard
    from penstock.models.loader import LoadedModel
    from penstock.models.spec import ModelSpec
    from penstock.settings import Settings

logger = get_logger(__name__)

_LINE_EVERY_S: Final = 5.0


@contextmanager
def one_line(queue: str, what: str) -> Generator[None]:
    """Report whatever a model's own files make a library raise in one line; the log has the rest.

    :raises StartupError: something was raised.
    """
    try:
        yield
    except StartupError:
        raise
    except Exception as error:
        logger.debug("Loading %s failed", queue, exc_info=True)
        raise StartupError(
            f"queue {queue}: {what} could not be loaded: {type(error).__name__}: {first_line(error)}"
        ) from error


def load(spec: ModelSpec, settings: Settings) -> LoadedModel | LoadedEncoder:
    """Load a model, with its progress shown, and report it in a line.

    :raises StartupError: with the line to show.
    """
    started_s = time.monotonic()
    with one_line(spec.queue, str(spec.path)), _shown_progress(spec.queue) as progress:
        by_task = loader.load if spec.task == "generate" else encoders.load
        loaded = by_task(spec, settings, slots=None, progress=progress)
    logger.info("%s", describe(loaded.card, time.monotonic() - started_s))
    return loaded


def describe(card: ModelCard, load_s: float) -> str:
    """One line about a loaded model."""
    return (
        f"Loaded {card.queue}: {_short(card.parameters)} parameters, "
        f"{card.weights_bytes / 2**20:,.1f} MiB, {card.format} ({card.backend}), "
        f"{_published(card)}device {card.device}, context {card.context_length}, {card.slots} slots, "
        + (f"KV cache of {card.kv_cache_tokens} tokens, " if card.kv_cache_tokens else "")
        + f"in {load_s:.1f} s"
    )


def _published(card: ModelCard) -> str:
    """What a quantised checkpoint was published as, and what became of its weights."""
    if not card.stored:
        return ""
    if card.weight_error is None:
        return f"published as {card.stored}, "
    became = f"weights off by {card.weight_error:.2%}" if card.weight_error else "weights exact"
    return f"published as {card.stored}, {became}, "


def _short(count: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def open_queue(
    loaded: LoadedModel | LoadedEncoder,
    publish: Callable[..., None],
    answers: AnswerIndex | None = None,
) -> ServedQueue:
    """Return a loaded model's queue, with an engine that is not started.

    `answers` are those of the model before it was unloaded; new ones by default.
    """
    card, sink = loaded.card, Sink(publish)
    if isinstance(loaded, LoadedEncoder):
        engine = EncoderEngine(
            loaded.encoder, slots=card.slots, batch_tokens=loaded.batch_tokens, sink=sink
        )
        return ServedQueue(card=card, tokenizer=loaded.tokenizer, engine=engine, sink=sink)
    drafts = loaded.options.speculation_tokens
    answers = answers or AnswerIndex(card.vocab_size) if drafts else None
    engine = Engine(
        loaded.model,
        loaded.tokenizer,
        loaded.options,
        sink,
        answers=answers,
        store=loaded.store,
        draft_model=loaded.draft_model,
    )
    return ServedQueue(
        card=card,
        tokenizer=loaded.tokenizer,
        engine=engine,
        sink=sink,
        vision=loaded.vision,
        answers=answers,
        adapters=loaded.adapters,
        store=loaded.store,
    )


@contextmanager
def _shown_progress(queue: str) -> Generator[Callable[[float, str], None]]:
    """Show `progress(share, what)`: a bar on a terminal, else a line now and then."""
    if sys.stderr.isatty():
        # Imported here: without a terminal, a worker starts the sooner.
        from rich.console import Console  # noqa: PLC0415 - see above
        from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - too

        columns = (
            TextColumn("{task.fields[queue]}"),
            BarColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("opening", total=1.0, queue=queue)
            yield lambda share, what: bar.update(task, completed=share, description=what)
        return
    last_s = time.monotonic()

    def show(share: float, what: str) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= _LINE_EVERY_S:
            last_s = time.monotonic()
            logger.info("Loading %s: %d %%, %s", queue, round(share * 100), what)

    yield show
