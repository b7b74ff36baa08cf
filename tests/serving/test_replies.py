"""What counts as an answer, whatever a server sends."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.serving.replies import NonsenseError, Reply, read_chat, read_completion


def chat(message: Any, reason: Any = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": reason}], **more}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (chat({"content": "4."}), Reply("4.", True)),
        (chat({"content": "4."}, "length"), Reply("4.", False)),
        (chat({"content": "half \ud83d of one"}), Reply("half ? of one", True)),
        # Words of other servers for an end.
        (chat({"content": "4."}, "eos_token"), Reply("4.", True)),
        (chat({"content": None}), Reply("", True, missing="empty")),
        (chat({"content": " \n"}, "length"), Reply(" \n", False, missing="empty")),
        (chat({"content": None, "refusal": "I cannot."}), Reply("", True, missing="refused")),
        (chat({"content": "Well"}, "content_filter"), Reply("Well", True, missing="refused")),
        (
            chat({"content": "So:", "tool_calls": [{}]}, "tool_calls"),
            Reply("So:", True, missing="called a tool"),
        ),
        (chat({"content": "4.", "tool_calls": []}), Reply("4.", True)),
        (
            chat({"content": "4."}, usage={"prompt_tokens": 7, "completion_tokens": 2}),
            Reply("4.", True, prompt_tokens=7, completion_tokens=2),
        ),
        (chat({"content": "4."}, usage={"prompt_tokens": "many"}), Reply("4.", True)),
        (chat({"content": "4."}, usage=[1]), Reply("4.", True)),
    ],
)
def test_a_chat_answer(body: Any, expected: Reply) -> None:
    assert read_chat(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "4.",
        {},
        {"choices": None},
        {"choices": []},
        {"choices": ["4."]},
        {"choices": [{"finish_reason": "stop"}]},
        chat("4."),
        chat({"content": ["4."]}),
        chat({"content": "4."}, None),
        chat({"content": "4."}, "abort"),
        {"error": "overloaded"},
    ],
)
def test_nonsense_is_no_answer(body: Any) -> None:
    with pytest.raises(NonsenseError):
        read_chat(body)


def completion(tokens: Any, text: Any = "4.", reason: str = "stop") -> dict[str, Any]:
    return {"choices": [{"text": text, "token_ids": tokens, "finish_reason": reason}]}


def test_an_answer_in_tokens() -> None:
    assert read_completion(completion([5, 2]), 10) == Reply("4.", True, (5, 2))
    assert read_completion(completion([5], reason="length"), 10) == Reply("4.", False, (5,))
    assert read_completion(completion([], ""), 10) == Reply("", True, (), "empty")


@pytest.mark.parametrize(
    "body", [completion(None), completion([10]), completion([-1]), completion([True])]
)
def test_tokens_that_do_not_exist_are_nonsense(body: Any) -> None:
    with pytest.raises(NonsenseError, match="token_ids"):
        read_completion(body, 10)
