"""What a server reports of given tokens, read with distrust."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.serving.replies import NonsenseError, TokenReport, read_prompt_log_probs
from tests.support.prompt_log_probs import log_softmax, reply, report

examples = settings(derandomize=True, max_examples=150, deadline=None)
VOCABULARY = 7
finite = st.floats(-30, 30, width=32)


@st.composite
def texts(draw: st.DrawFn) -> tuple[list[int], list[list[float]]]:
    """Tokens of the reader's vocabulary, and log-probabilities over one that may be larger."""
    size = VOCABULARY + draw(st.integers(0, 3))
    tokens = draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=2, max_size=6))
    logits = st.lists(finite | st.just(-math.inf), min_size=size, max_size=size)
    rows = [draw(logits.filter(lambda row: max(row[:VOCABULARY]) > -15)) for _ in tokens[1:]]
    return tokens, [log_softmax(row) for row in rows]


@examples
@given(texts(), st.integers(0, VOCABULARY))
def test_it_reads_what_the_model_thinks(text: tuple[list[int], list[list[float]]], k: int) -> None:
    tokens, log_probs = text
    positions = range(1, len(tokens))
    body = json.loads(json.dumps(reply(report(tokens, log_probs, k))))
    found = read_prompt_log_probs(body, tokens, positions, k, VOCABULARY)
    for position, row in zip(positions, log_probs, strict=True):
        ids, values = found.ids[position - 1], found.log_probs[position - 1]
        assert len(ids) == len(values) == k
        ranked = sorted(range(len(row)), key=lambda one: (-row[one], one))[:k]
        # Padding that is reported is known not to come.
        padding = sum(math.exp(row[token]) for token in ranked if token >= VOCABULARY)
        scale = math.log1p(-min(padding, 1 - 1e-7))
        known = [one for one in ids if one >= 0]
        assert set(ranked) - {*range(VOCABULARY, len(row))} <= {*known}
        assert {*known} <= {*ranked, tokens[position]}
        assert len({*known}) == len(known) and ids == known + [-1] * (k - len(known))
        assert values == sorted(values, reverse=True)
        for token, value in zip(ids, values, strict=True):
            expected = row[token] - scale if token >= 0 else -math.inf
            assert value == pytest.approx(min(expected, 0.0), rel=1e-6, abs=1e-6)
        own = min(row[tokens[position]] - scale, 0.0)
        assert found.own[position - 1] == pytest.approx(own, rel=1e-6, abs=1e-6)


def test_with_all_padding_reported_it_is_a_model_without_it() -> None:
    """As the loaded teacher, whose head is cut to the common tokens."""
    logits = [0.3, -1.0, 2.0, 1.9, 0.0]
    body = reply(report([0, 1], [log_softmax(logits)], 5))
    found = read_prompt_log_probs(body, [0, 1], [1], 3, 3)
    cut = log_softmax(logits[:3])
    assert found.ids == [[2, 0, 1]]
    assert found.log_probs[0] == pytest.approx([cut[2], cut[0], cut[1]])
    assert found.own == pytest.approx([cut[1]])


def test_only_the_positions_that_are_asked_for_are_read() -> None:
    reported = report([3, 1, 2], [log_softmax([0.0] * VOCABULARY)] * 2, 2)
    reported[1] = "whatever"
    found = read_prompt_log_probs(reply(reported), [3, 1, 2], [2], 2, VOCABULARY)
    assert found == TokenReport([[0, 1]], [[pytest.approx(-math.log(7))] * 2], found.own)


BODY = reply(report([3, 1, 2], [log_softmax([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])] * 2, 2))


def changed(change: Any) -> dict[str, Any]:
    """The reply with another report of its last position."""
    body = copy.deepcopy(BODY)
    change(body["choices"][0]["prompt_logprobs"])
    return body


def last(value: Any) -> Any:
    return lambda reported: reported.__setitem__(2, value)


def entry(name: str, value: Any) -> Any:
    return lambda reported: reported[2].__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda reported: reported.pop(), "prompt_logprobs of 2 tokens for 3"),
        (lambda reported: reported.append(None), "prompt_logprobs of 4 tokens for 3"),
        (last(None), "nothing about position 2"),
        (last([]), "nothing about position 2"),
        (last({}), "no log-probability of the token at position 2"),
        (lambda reported: reported[2].pop("2"), "no log-probability of the token at position 2"),
        (last({"2": {"logprob": -0.1}}), "1 tokens at position 2, not 2"),
        (entry("2", -0.5), "without a log-probability"),
        (entry("2", {}), "without a log-probability"),
        (entry("2", {"logprob": None}), "without a log-probability"),
        (entry("2", {"logprob": "-0.5"}), "without a log-probability"),
        (entry("2", {"logprob": True}), "without a log-probability"),
        (entry("2", {"logprob": math.nan}), "without a log-probability"),
        (entry("2", {"logprob": math.inf}), "without a log-probability"),
        (entry("2", {"logprob": 10**400}), "without a log-probability"),
        (entry("2", {"logprob": 3.5}), "without a log-probability"),
        (entry("two", {"logprob": -1}), "that is no id"),
        (entry("-2", {"logprob": -1}), "that is no id"),
        # Twice the same token, in two spellings.
        (entry("02", {"logprob": -1}), "that is no id"),
        (entry(" 2", {"logprob": -1}), "that is no id"),
        (entry("9" * 5000, {"logprob": -1}), "that is no id"),
        (entry("4", {"logprob": -0.1}), "probabilities at position 2 that add up to"),
    ],
)
def test_nonsense(change: Any, message: str) -> None:
    with pytest.raises(NonsenseError, match=message):
        read_prompt_log_probs(changed(change), [3, 1, 2], [1, 2], 2, VOCABULARY)


def test_a_reply_without_it() -> None:
    for choice in ({}, {"prompt_logprobs": None}, {"prompt_logprobs": {}}):
        body = {"choices": [{"text": "", "finish_reason": "length", **choice}]}
        with pytest.raises(NonsenseError, match="is the server vLLM"):
            read_prompt_log_probs(body, [3, 1], [1], 2, VOCABULARY)


def test_what_cannot_be_is_no_number() -> None:
    for value in (-9999.0, -math.inf, -(10**400)):
        body = changed(entry("2", {"logprob": value}))
        found = read_prompt_log_probs(body, [3, 1, 2], [2], 2, VOCABULARY)
        assert found.own == [-math.inf]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@examples
@given(json_values, st.lists(st.integers(0, 3), max_size=5))
def test_whatever_comes_is_read_or_nonsense(value: Any, path: list[int]) -> None:
    body = copy.deepcopy(BODY)
    parent, key, here = None, None, body
    for step in path:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            break
        parent, key = here, keys[step % len(keys)]
        here = parent[key]
        if not isinstance(here, dict | list):
            break
    if parent is None:
        body = value
    else:
        parent[key] = value
    try:
        found = read_prompt_log_probs(body, [3, 1, 2], [1, 2], 2, VOCABULARY)
    except NonsenseError:
        return
    assert all(0 <= token < VOCABULARY for row in found.ids for token in row)
    assert all(one <= 0 for row in [*found.log_probs, found.own] for one in row)
