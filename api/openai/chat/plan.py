"""What a chat request comes to, worked out once: its jobs' work and how its answers are handled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from api.jobs.blame import Blame
from api.openai.chat.best_of import Choices
from api.openai.chat.messages import chat_prompt
from api.openai.chat.sampling import of_choice, sampling
from api.openai.chat.tools import answer_form
from penstock.contract.job import Generate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from api.openai.chat.tools import Reading
    from api.openai.chat_images import ChatImages
    from api.openai.schema import ChatRequest
    from penstock.contract.job import ChatPrompt
    from penstock.contract.worker import ModelCard


@dataclass(frozen=True)
class ChatPlan:
    """The plan of one chat request on one model.

    Every protocol whose requests are chats (OpenAI's chat completions and responses, Anthropic's
    messages) makes one plan a request, and takes all that it needs from it.
    """

    prompt: ChatPrompt
    works: tuple[Generate, ...]
    """The work of each choice; they differ in their seeds alone."""
    choices: Choices
    reading: Reading
    """How the answers are parsed."""
    blame: Blame
    """The request's fields for what a worker may reject."""
    priority: int | None
    images: Mapping[str, bytes]
    """The images of its prompt, by digest."""
    unenforced: tuple[str, ...] = ()
    """What the tools ask for and no grammar enforces."""

    @classmethod
    def of(cls, asked: ChatRequest, card: ModelCard, images: ChatImages) -> ChatPlan:
        """Return the plan of a request, whose images go into `images`.

        :raises UnsupportedFeature: content, tools or a structure that the model cannot handle.
        :raises InvalidParameter: fields that contradict each other or do not fit the model.
        """
        prompt = chat_prompt(asked, images)
        first = sampling(asked, card, default_max_tokens=None)
        form = answer_form(asked, prompt.tools, card)
        choices = Choices.of(asked)
        if form.structure is not None:
            first = msgspec.structs.replace(first, structure=form.structure)
        first = choices.ranked(first)
        return cls(
            prompt=prompt,
            works=tuple(
                Generate(prompt, of_choice(first, choice)) for choice in range(choices.made)
            ),
            choices=choices,
            reading=form.reading,
            blame=Blame("messages", {"structure": form.structure_param}),
            priority=asked.priority,
            images=images.data,
            unenforced=form.unenforced,
        )

    def within_context(self) -> ChatPlan:
        """Return the plan with answers that the context cuts off, instead of refusing them."""
        works = tuple(msgspec.structs.replace(work, fit_context=True) for work in self.works)
        return replace(self, works=works)

    @property
    def first(self) -> Generate:
        """The work of the first choice; the only one of protocols without `n`."""
        return self.works[0]

    @property
    def hidden_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer without being part of its text."""
        return frozenset(self.first.sampling.stop_token_ids)
