"""One sequence: its request, its progress, its blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from penstock.contract.events import FinishReason, PositionLogprobs, Usage
from penstock.engine.pooling import Pooled
from penstock.engine.sampling.logits_edits import LogitsEdits
from penstock.engine.sampling.sampler import Choice
from penstock.engine.text.answer import Answer
from penstock.errors import ContextOverflow, InvalidParameter

if TYPE_CHECKING:
    import collections.abc

    from penstock.contract.job import Sampling
    from penstock.engine.image_inputs import ImageInputs
    from penstock.engine.sampling.constraint import Constraint
    from penstock.engine.text.detokenizer import DecodeCache

_CONTEXT_TOKENS: Final = 6
"""Last tokens of the prompt that give the context for decoding the answer's first ones."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A change to the model for some sequences: its weights in the model's own layout.

    `digest` identifies them: keys and values are reused only between sequences of one adapter.
    """

    digest: bytes
    weights: Any


@dataclass(frozen=True, slots=True)
class SequenceRequest:
    """A request to the engine.

    `attempt_id` identifies the request in this process; two attempts at one job must differ. It
    is `job_id` by default. `generated_token_ids` are the answer's tokens in the journal: the
    engine goes on after them and emits only new ones. `echo_text` comes before the first token's
    text. `joins_prompt` decodes the answer as the prompt's continuation (a SentencePiece word then
    keeps its leading space); otherwise it is a text of its own. `priority` is 0 (first) to 9
    (last). `constraint` must be fresh and used by no other sequence. `scores_prompt` also computes
    the log probabilities of the prompt's tokens, with `sampling.logprobs` alternatives each;
    `embeds` its embedding. `token_types` assign each token to one of two texts, for encoders;
    empty for a single text. `stop_tokens` are stop strings that are single tokens, by id: their
    text is never emitted. `images` are the embeddings of the prompt's images. `scope` is whose
    answers may be used to draft this one, and for whom this one may be used; empty: none.
    `head` names the prompt to `Engine.lost_heads`. Sequences of different `cache_owner` or
    `adapter` share no blocks; `adapter` None is the model as it is.
    """

    job_id: str
    prompt_token_ids: collections.abc.Sequence[int]
    sampling: Sampling
    generated_token_ids: collections.abc.Sequence[int] = ()
    echo_text: str = ""
    priority: int = 5
    joins_prompt: bool = True
    constraint: Constraint | None = None
    scores_prompt: bool = False
    embeds: bool = False
    token_types: collections.abc.Sequence[int] = ()
    stop_tokens: collections.abc.Mapping[int, str] = field(default_factory=dict[int, str])
    attempt_id: str = ""
    images: ImageInputs | None = None
    scope: str = ""
    head: str = ""
    cache_owner: str = ""
    adapter: Adapter | None = None

    def __post_init__(self) -> None:
        if not self.attempt_id:
            object.__setattr__(self, "attempt_id", self.job_id)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for requests. `context_length` is at most what fits into the KV cache."""

    context_length: int
    vocab_size: int
    eos_token_ids: frozenset[int]


class Sequence:
    """The state of one request inside the engine; the engine's thread owns it.

    Of `token_ids` (prompt, then answer) the first `computed` are in the KV cache, in the blocks of
    `block_table`, of which the first `registered_blocks` are in the prefix cache. `window_table` has
    those of layers with a window if they have blocks of their own; the first `dropped_blocks` of such
    layers were released. `state` is the
    place of its state, if the model has states (-1: it has none), which is kept for reuse at
    the blocks `state_marks`, and behind its newest ones as `kept_state`, by digest. While a draft is
    verified, the state before it is at the place `saved_state`; a sequence that had to return to it
    `replays` its last tokens. `rank` sorts
    sequences: by priority, then those that another worker has begun, then by arrival. `scores` are the log probabilities of the prompt's
    tokens from the second on, as far as they are known; None if they are not requested. `pooled`
    collects its embedding; None if it is not requested.
    """

    __slots__ = (
        "_ending_ids",
        "answer",
        "block_table",
        "cached_tokens",
        "choice",
        "computed",
        "digests",
        "dropped_blocks",
        "finish_reason",
        "kept_state",
        "key",
        "max_length",
        "pooled",
        "prompt_length",
        "rank",
        "registered_blocks",
        "replays",
        "request",
        "saved_state",
        "scores",
        "state",
        "state_marks",
        "stop",
        "token_ids",
        "window_table",
    )

    def __init__(
        self, request: SequenceRequest, key: int, limits: Limits, cache: DecodeCache
    ) -> None:
        """Check the request and replay the tokens that the answer has already.

        :raises ContextOverflow: prompt and answer cannot fit.
        :raises InvalidParameter: the prompt is empty, or a token id is not in the vocabulary.
        """
        _check(request, limits)
        sampling, prompt = request.sampling, request.prompt_token_ids
        self.request = request
        self.key = key
        self.rank = (request.priority, not request.generated_token_ids, key)
        self.token_ids = list(prompt)
        self.prompt_length = len(prompt)
        room = limits.context_length - len(prompt)
        self.max_length = len(prompt) + (
            room if sampling.max_tokens is None else sampling.max_tokens
        )
        self.computed = 0
        self.block_table: list[int] = []
        self.window_table: list[int] = []
        self.dropped_blocks = 0
        self.digests: list[bytes] = []
        self.registered_blocks = 0
        self.state = -1
        self.saved_state = -1
        self.replays = False
        self.state_marks: tuple[int, ...] = ()
        self.kept_state: bytes | None = None
        self.cached_tokens: int | None = None
        self.finish_reason: FinishReason | None = None
        self.stop: str | int | None = None
        # Structured output ends where its constraint does.
        endless = sampling.ignore_eos and request.constraint is None
        eos = frozenset[int]() if endless else limits.eos_token_ids
        self._ending_ids = eos.union(sampling.stop_token_ids, request.stop_tokens)
        edits = LogitsEdits.needed(sampling)
        self.choice = Choice(
            sampling,
            LogitsEdits(sampling, prompt, self._ending_ids) if edits else None,
            request.constraint,
        )
        context = prompt[-_CONTEXT_TOKENS:] if request.joins_prompt else ()
        scored = request.scores_prompt and not request.generated_token_ids
        self.scores: list[PositionLogprobs] | None = [] if scored else None
        self.pooled = Pooled() if request.embeds else None
        self.answer = Answer(cache, context, sampling.stop)
        if self.max_length <= self.prompt_length:
            self.finish_reason = FinishReason.LENGTH
        for token_id in request.generated_token_ids:
            self.append(token_id)

    @property
    def generated(self) -> int:
        """Tokens of the answer so far."""
        return len(self.token_ids) - self.prompt_length

    @property
    def is_new(self) -> bool:
        """Whether nothing was generated for it here yet."""
        return self.generated == len(self.request.generated_token_ids)

    @property
    def adapter_weights(self) -> Any | None:
        """What its adapter is in the model; None for the model as it is."""
        return None if self.request.adapter is None else self.request.adapter.weights

    @property
    def remaining(self) -> int:
        """Tokens that are not in the KV cache yet; 1 while decoding."""
        return len(self.token_ids) - self.computed

    @property
    def needs_prompt_rows(self) -> bool:
        """Whether prompt tokens still have to be scored or embedded."""
        if self.pooled is not None and self.pooled.count < self.prompt_length:
            return True
        return self.scores is not None and len(self.scores) < self.prompt_length - 1

    @property
    def usage(self) -> Usage:
        """The tokens counted so far; the ending token counts as one of the answer's."""
        return Usage(self.prompt_length, self.generated, self.cached_tokens or 0)

    def append(self, token_id: int) -> str:
        """Append the answer's next token, check whether it ends the text, and return the new text.

        The token that ends a text by its id adds no text of its own.
        """
        self.token_ids.append(token_id)
        self.choice.add(token_id)
        if self.finish_reason is not None:
            return ""
        may_stop = self.choice.position > self.choice.sampling.min_tokens
        if token_id in self._ending_ids and may_stop:
            self.finish_reason = FinishReason.STOP
            if token_id in self.request.stop_tokens:
                self.stop = self.request.stop_tokens[token_id]
            elif token_id in self.choice.sampling.stop_token_ids:
                self.stop = token_id
            return ""
        text = self.answer.push(token_id, may_stop=may_stop)
        if self.answer.stop is not None:
            self.finish_reason, self.stop = FinishReason.STOP, self.answer.stop
        elif _is_complete(self.request):
            self.finish_reason = FinishReason.STOP
        elif len(self.token_ids) >= self.max_length:
            self.finish_reason = FinishReason.LENGTH
        return text

    def rewind(self) -> None:
        """Reset to nothing computed: the blocks are gone, the tokens stay."""
        self.computed = 0
        self.registered_blocks = 0
        self.block_table = []
        self.window_table = []
        self.dropped_blocks = 0
        self.state = -1
        self.saved_state = -1
        self.replays = False
        self.state_marks = ()


def _is_complete(request: SequenceRequest) -> bool:
    return request.constraint is not None and request.constraint.complete


def _check(request: SequenceRequest, limits: Limits) -> None:
    sampling, length = request.sampling, len(request.prompt_token_ids)
    if not length:
        raise InvalidParameter("the prompt has no tokens", param="prompt")
    for name, ids in (
        ("prompt", request.prompt_token_ids),
        ("prompt", request.generated_token_ids),
        ("logit_bias", sampling.logit_bias),
        ("stop_token_ids", sampling.stop_token_ids),
    ):
        if ids and (min(ids) < 0 or max(ids) >= limits.vocab_size):
            raise InvalidParameter(
                f"{name}: a token id is outside the vocabulary of {limits.vocab_size}", param=name
            )
    answer_tokens = 1 if sampling.max_tokens is None else sampling.max_tokens
    if length + answer_tokens > limits.context_length:
        raise ContextOverflow(
            _overflow(limits.context_length, length, sampling.max_tokens), param="prompt"
        )


def _overflow(context_length: int, length: int, max_tokens: int | None) -> str:
    """Use the words of OpenAI and Anthropic: LiteLLM, LangChain and agents search for them."""
    limit = f"This model's maximum context length is {context_length} tokens"
    if max_tokens is None or length >= context_length:
        return f"{limit}; the prompt is too long: it has {length}"
    return f"{limit}; the prompt has {length} and {max_tokens} were asked for"
