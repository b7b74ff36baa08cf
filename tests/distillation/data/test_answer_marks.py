"""What counts as a mark in an answer: of thinking, and of turns that should have ended."""

from __future__ import annotations

from contextlib import suppress

import pytest

from sweeper.distillation.data.answer_marks import AnswerMarks
from sweeper.distillation.data.chat_templates import render
from sweeper.foundation.errors import BadInputError
from tests.support.chat_templates import ASKED, CALLED, ROWS, SAID, tokenizer

GPT_THINKS = "<|channel|>analysis<|message|>Hm.<|end|>"
GPT_SAYS = "<|channel|>final<|message|>8"

TABLE = [
    ("chatml", "4 + 4 = 8", (), ()),
    ("chatml", "if a <b> think", (), ()),
    # Marks of thinking are known without a template that has them.
    ("chatml", "<think>\nhm</think>8", ("<think>", "</think>"), ()),
    ("chatml", "<seed:think>8", ("<seed:think>",), ()),
    ("chatml", "[THINK]hm[/THINK]8", ("[THINK]", "[/THINK]"), ()),
    ("chatml", "◁think▷hm", ("◁think▷",), ()),
    ("chatml", "<|begin_of_thought|>hm", ("<|begin_of_thought|>",), ()),
    ("chatml", "<|channel>thought\nhm<channel|>8", ("<|channel>thought", "<channel|>"), ()),
    ("chatml", "<|START_THINKING|>hm", ("<|START_THINKING|>",), ()),
    # Marks of other families, and of further turns.
    ("chatml", GPT_THINKS, ("<|channel|>analysis",), ("<|message|>", "<|end|>")),
    ("chatml", GPT_SAYS, (), ("<|channel|>", "<|message|>")),
    ("chatml", "8<|im_start|>user", (), ("<|im_start|>",)),
    ("chatml", "8 [INST] and 9? [/INST]", (), ("[INST]", "[/INST]")),
    ("chatml", "8<end_of_turn>", (), ("<end_of_turn>",)),
    # Marks that the student's template writes inside an answer are no marks of a template.
    ("gptoss", GPT_SAYS, (), ()),
    ("gptoss", GPT_THINKS + "<|start|>assistant" + GPT_SAYS, ("<|channel|>analysis",), ()),
    ("gptoss", "<|channel|>commentary json<|message|>{}<|call|>", (), ()),
    ("gptoss", GPT_SAYS + "<|im_start|>", (), ("<|im_start|>",)),
    (
        "gptoss",
        GPT_SAYS + "<|end|><|start|>user<|message|>And 5?",
        (),
        ("<|end|><|start|>user<|message|>",),
    ),
    ("mistral_calls", '[TOOL_CALLS] [{"name": "f"}]', (), ()),
    ("mistral", "8 [INST] and 9?", (), ("[INST]",)),
    ("cohere2", "8<|END_RESPONSE|>", (), ()),
    (
        "cohere2",
        "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>8",
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|START_RESPONSE|>",),
    ),
    ("gemma4_v5", "<|channel>thought\nhm<channel|>8", ("<|channel>thought", "<channel|>"), ()),
    ("gemma4_v5", '<|tool_call>call:f{a:<|"|>b<|"|>}<tool_call|>', (), ()),
    ("gemma4_v5", "8<|turn>user", (), ("<|turn>",)),
    # Its prompt opens the thoughts.
    ("deepseek_r1_distill", "hm</think>8", ("</think>",), ()),
    ("deepseek_r1_distill", "8<｜User｜>", (), ("<｜User｜>",)),
    # It takes the arguments of calls as text only.
    ("deepseekv3", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f", (), ()),
    # A template that writes thoughts in its own way.
    ("muse_glimmer", " to=self<|message|>hm", ("to=self<|message|>",), ()),
    ("muse_glimmer", " to=user<|message|>8", (), ()),
]


@pytest.mark.parametrize(("kind", "text", "thinking", "template"), TABLE)
def test_marks_are_found_in_the_text(
    kind: str, text: str, thinking: tuple[str, ...], template: tuple[str, ...]
) -> None:
    tokens = tokenizer(kind)
    ids = tokens(text, add_special_tokens=False)["input_ids"]
    seen, marks = AnswerMarks.of(tokens).found(ids)
    assert (seen, sorted(marks)) == (thinking, sorted(template))


KINDS = [
    *("chatml", "glm4", "mistral", "mistral_calls", "zephyr", "deaf", "qwen2_5", "qwen3"),
    *("llama3_1", "gemma3", "phi3", "glm4moe", "gptoss", "gemma4_v5"),
    *("cohere2", "muse_glimmer"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_has_a_mark_only_if_it_runs_on(kind: str) -> None:
    tokens = tokenizer(kind)
    marks = AnswerMarks.of(tokens)

    def found(text: str) -> tuple[str, ...]:
        return marks.found(tokens(text, add_special_tokens=False)["input_ids"])[1]

    answers = 0
    for row in ROWS.values():
        for *before, answer in (row["messages"], [ASKED, {**CALLED, "content": ""}]):
            tools = row.get("tools")
            # Some templates refuse calls, system messages, or contents that are null.
            with suppress(BadInputError):
                prompt = render(before, tokens, tools=tools, asks=True)
                text = render([*before, answer], tokens, tools=tools)
                if text.startswith(prompt):
                    answers += 1
                    assert found(text[len(prompt) :]) == ()
    assert answers
    further = render([ASKED, SAID, ASKED], tokens)
    assert found(further[further.index(SAID["content"]) :])
