"""`penstock chat`: talk with a served model through the OpenAI SDK."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from penstock.cli import running
from penstock.cli.console import note, out, visible
from penstock.errors import JobFailed, NoWorker, StartupError

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletionMessageParam

_HELP = "/clear forgets the conversation, /quit (or Ctrl-D) ends; Ctrl-C stops an answer"


@dataclass
class Conversation:
    """The messages so far, and the options of requests."""

    client: openai.OpenAI
    model: str
    system: str
    temperature: float | None
    max_tokens: int | None
    messages: list[ChatCompletionMessageParam] = field(
        default_factory=list["ChatCompletionMessageParam"]
    )

    def __post_init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Delete all but the system message."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def ask(self, text: str) -> None:
        """Print the answer as it streams, and add question and answer to the conversation.

        :raises openai.OpenAIError: the request failed; nothing is added.
        """
        question: ChatCompletionMessageParam = {"role": "user", "content": text}
        options: dict[str, float | int] = {}
        if self.temperature is not None:
            options["temperature"] = self.temperature
        if self.max_tokens is not None:
            options["max_tokens"] = self.max_tokens
        stream = self.client.chat.completions.create(
            model=self.model,
            messages=[*self.messages, question],
            stream=True,
            extra_body=options,
        )
        pieces: list[str] = []
        with stream, contextlib.suppress(KeyboardInterrupt):
            for chunk in stream:
                for choice in chunk.choices:
                    pieces.append(choice.delta.content or "")
                    out.file.write(visible(pieces[-1]))
                    out.file.flush()
        out.file.write("\n")
        self.messages.append(question)
        self.messages.append({"role": "assistant", "content": "".join(pieces)})


def chat(
    prompt: Annotated[
        str | None, typer.Argument(help="Ask this and exit; without it, a conversation.")
    ] = None,
    *,
    model: Annotated[
        str | None, typer.Option(help="A served model.", show_default="the first that is served")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="The API.", show_default="penstock up's, or http://127.0.0.1:8000"),
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="A key.")] = None,
    system: Annotated[str, typer.Option(help="The system message.")] = "",
    temperature: Annotated[float | None, typer.Option(min=0.0)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Talk with a served model."""
    if importlib.util.find_spec("openai") is None:
        raise StartupError("the OpenAI SDK is not installed: pip install 'penstock[client]'")
    import openai  # noqa: PLC0415 - half a second that other commands need not wait

    address = running.api_url(url)
    client = openai.OpenAI(base_url=f"{address}/v1", api_key=running.api_key(api_key))
    try:
        chosen = model or _first_model(client, address)
        talk = Conversation(client, chosen, system, temperature, max_tokens)
        if prompt is not None:
            talk.ask(prompt)
        else:
            _converse(talk, address)
    except openai.APIConnectionError as error:
        raise StartupError(f"no API answers at {address}; start one with penstock up") from error
    except openai.OpenAIError as error:
        raise JobFailed(str(error)) from error
    finally:
        client.close()


def _first_model(client: openai.OpenAI, address: str) -> str:
    served = [
        (bool(getattr(model, "parent", None)), model.id)  # a model rather than its adapter
        for model in client.models.list()
        if "generate" in (getattr(model, "capabilities", None) or ("generate",))
    ]
    if not served:
        raise NoWorker(f"{address} serves no chat model; start a worker")
    return min(served, key=itemgetter(0))[1]


def _converse(talk: Conversation, address: str) -> None:
    """Read lines until the end of input; an error ends an answer, not the conversation."""
    import openai  # noqa: PLC0415 - as above

    interactive = sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):
            importlib.import_module("readline")  # gives input() history and line editing
        note(f"[bold]{talk.model}[/] at {address}. {_HELP}.")
    while (line := _read_line(interactive)) is not None:
        match line:
            case "":
                continue
            case "/quit" | "/exit":
                return
            case "/clear":
                talk.clear()
                note("[dim]forgotten[/]")
            case "/help":
                note(_HELP)
            case _:
                try:
                    talk.ask(line)
                except openai.APIStatusError as error:
                    note(f"[red]error:[/] {escape(error.message)}")
                    if not interactive:
                        raise


def _read_line(interactive: bool) -> str | None:
    """Return the next line, stripped; None at the end of input, "" after Ctrl-C."""
    try:
        return input("\n> " if interactive else "").strip()
    except EOFError:
        return None
    except KeyboardInterrupt:
        out.file.write("\n")
        return ""
