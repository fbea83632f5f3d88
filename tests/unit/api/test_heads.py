"""The heads of prompts: equal beginnings have equal digests, and their number is bounded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from api.jobs.heads import FIRST, MOST_LAST, MOST_OF_A_STRIDE, PIECE_CHARACTERS, STRIDES, heads_of
from api.jobs.requested_jobs import _heads
from penstock.contract.job import (
    ChatPrompt,
    FillPrompt,
    Generate,
    Sampling,
    TextPrompt,
    TokenPrompt,
)
from penstock.settings import Settings

SYSTEM = {"role": "system", "content": "Be brief."}


def chat(*texts: str, **fields: Any) -> ChatPrompt:
    roles = ("user", "assistant")
    messages = tuple({"role": roles[n % 2], "content": text} for n, text in enumerate(texts))
    return ChatPrompt((SYSTEM, *messages), **fields)


def longest_kept(prompt: Any) -> str:
    return next(head.digest for head in reversed(heads_of(prompt)) if head.kept)


def test_the_next_turn_has_the_last_ones_head():
    first, second = chat("one"), chat("one", "answer", "two")
    assert longest_kept(first) in {head.digest for head in heads_of(second)}
    assert longest_kept(first) not in {head.digest for head in heads_of(chat("another"))}


def test_an_agents_turn_of_many_messages_is_found_again():
    texts = [f"message {number}" for number in range(100)]
    kept = {head.digest for head in heads_of(chat(*texts[:40])) if head.kept}
    for more in (2, 9, 25):
        assert kept & {head.digest for head in heads_of(chat(*texts[: 40 + more]))}


def test_tools_kwargs_and_owners_keep_prompts_apart():
    prompts = [chat("x"), chat("x", tools=({"name": "t"},)), chat("x", template_kwargs={"a": 1})]
    digests = [head.digest for prompt in prompts for head in heads_of(prompt)]
    digests += [head.digest for head in heads_of(chat("x"), "tenant-a")]
    digests += [head.digest for head in heads_of(chat("x"), "tenant-b")]
    assert len(set(digests)) == len(digests)


def test_heads_grow_and_are_few():
    most = MOST_LAST + FIRST + len(STRIDES) * MOST_OF_A_STRIDE
    for count in (1, 2, 7, 8, 9, 64, 65, 1000):
        heads = heads_of(chat(*("word " * 20 for _ in range(count))))
        sizes = [head.tokens for head in heads]
        assert sizes == sorted(set(sizes))
        assert len(heads) <= most
        assert heads[-1].kept


def test_texts_and_token_ids_are_cut_into_pieces():
    text = "".join(chr(97 + number % 26) for number in range(10 * PIECE_CHARACTERS))
    longer = heads_of(TextPrompt(text + "and more" * 200))
    assert longest_kept(TextPrompt(text)) in {head.digest for head in longer}
    ids = tuple(range(2000))
    more = heads_of(TokenPrompt((*ids, *ids)))
    assert longest_kept(TokenPrompt(ids)) in {head.digest for head in more}


def test_short_texts_and_other_prompts_have_none():
    assert heads_of(TextPrompt("short")) == ()
    assert heads_of(FillPrompt("a" * 5000, "b")) == ()
    assert heads_of(TextPrompt("\ud800" * PIECE_CHARACTERS))


def test_a_session_counts_as_half_of_a_prompt():
    first, second = chat("one" * 100), chat("another" * 100)
    heads = heads_of(first, session=("tenant", "s"))
    (shared,) = {h.digest for h in heads} & {
        h.digest for h in heads_of(second, session=("tenant", "s"))
    } - {h.digest for h in heads_of(first)}
    (session,) = (head for head in heads if head.digest == shared)
    assert (session.tokens, session.kept) == ((heads[-1].tokens + 1) // 2, True)
    assert not {shared} & {h.digest for h in heads_of(second, session=("other", "s"))}


def test_tenants_whose_caches_are_apart_share_no_head():
    card: Any = SimpleNamespace(adapter=None)
    works = [Generate(chat("x"), Sampling(seed=0))]

    def digests(tenant: str, sharing: Any) -> set[str]:
        record: Any = SimpleNamespace(session="", tenant=tenant)
        (heads,) = _heads(works, record, card, Settings(kv_sharing=sharing))
        return {head.digest for head in heads}

    assert digests("a", "all") == digests("b", "all")
    assert not digests("a", "tenant") & digests("b", "tenant")
    assert digests("a", "tenant") == digests("a", "tenant")


def test_without_affinity_no_prompt_is_read_for_its_heads():
    record: Any = SimpleNamespace(session="", tenant="t")
    card: Any = SimpleNamespace(adapter=None)
    works = [Generate(chat("x"), Sampling(seed=0))] * 2
    assert all(_heads(works, record, card, Settings()))
    assert _heads(works, record, card, Settings(affinity_wait_ms=0)) == [(), ()]
