"""What a request changes in its logits before a token is chosen: penalties, bias, masks."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from penstock.contract.job import Sampling


class TokenCounts:
    """How often each token has occurred, as tensors that grow by doubling."""

    def __init__(self, token_ids: Iterable[int] = ()) -> None:
        self._index: dict[int, int] = {}
        self._ids = torch.zeros(64, dtype=torch.int64)
        self._counts = torch.zeros(64, dtype=torch.float32)
        for token_id in token_ids:
            self.add(token_id)

    def add(self, token_id: int) -> None:
        """Count one more token."""
        index = self._index.get(token_id)
        if index is None:
            index = self._index[token_id] = len(self._index)
            if index == len(self._ids):
                self._ids = torch.cat((self._ids, torch.zeros_like(self._ids)))
                self._counts = torch.cat((self._counts, torch.zeros_like(self._counts)))
            self._ids[index] = token_id
        self._counts[index] += 1

    def read(
        self, device: torch.device, ahead: Sequence[int] = ()
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return distinct token ids, (n,) int64, and their counts, (n,) float32.

        Tokens `ahead` are counted too, for this call only.
        """
        if not ahead:
            n = len(self._index)
            return self._ids[:n].to(device), self._counts[:n].to(device)
        for token_id in ahead:
            self.add(token_id)
        n = len(self._index)
        counted = self._ids[:n].clone().to(device), self._counts[:n].clone().to(device)
        for token_id in reversed(ahead):
            self._take_back(token_id)
        return counted

    def _take_back(self, token_id: int) -> None:
        """Undo the last `add`."""
        index = self._index[token_id]
        self._counts[index] -= 1
        if not self._counts[index]:
            del self._index[token_id]


class LogitsEdits:
    """One sequence's changes, applied in this order.

    Repetition penalty over prompt and generated tokens (as Transformers does it), presence and
    frequency penalties over generated tokens only (as OpenAI does it), bias, and, before
    `min_tokens`, no token that would end the text.
    """

    def __init__(
        self, sampling: Sampling, prompt_token_ids: Iterable[int], ending_token_ids: Iterable[int]
    ) -> None:
        self._sampling = sampling
        self._seen = TokenCounts(prompt_token_ids) if sampling.repetition_penalty != 1 else None
        counted = sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
        self._generated = TokenCounts() if counted else None
        self._bias_ids = torch.tensor(list(sampling.logit_bias), dtype=torch.int64)
        self._bias = torch.tensor(list(sampling.logit_bias.values()), dtype=torch.float32)
        self._ending_ids = torch.tensor(sorted(ending_token_ids), dtype=torch.int64)

    @staticmethod
    def needed(sampling: Sampling) -> bool:
        """Whether this request changes logits at all."""
        return (
            sampling.repetition_penalty != 1
            or sampling.presence_penalty != 0
            or sampling.frequency_penalty != 0
            or bool(sampling.logit_bias)
            or sampling.min_tokens > 0
        )

    def add(self, token_id: int) -> None:
        """Add a generated token."""
        if self._seen is not None:
            self._seen.add(token_id)
        if self._generated is not None:
            self._generated.add(token_id)

    def apply(self, row: torch.Tensor, position: int, ahead: Sequence[int] = ()) -> None:
        """Change the logits of the token at `position` of the answer; row is (vocab,) float32.

        `ahead` are draft tokens between the added ones and this one.
        """
        sampling = self._sampling
        if self._seen is not None:
            ids, _ = self._seen.read(row.device, ahead)
            values = row[ids]
            penalty = sampling.repetition_penalty
            row[ids] = torch.where(values > 0, values / penalty, values * penalty)
        if self._generated is not None:
            ids, counts = self._generated.read(row.device, ahead)
            row[ids] -= sampling.presence_penalty + sampling.frequency_penalty * counts
        if len(self._bias_ids):
            row[self._bias_ids.to(row.device)] += self._bias.to(row.device)
        if position < sampling.min_tokens:
            row[self._ending_ids.to(row.device)] = -inf
