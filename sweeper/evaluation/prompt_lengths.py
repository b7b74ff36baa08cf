"""How long the texts are that a suite has a model read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import PreTrainedTokenizerBase

from sweeper.config.suite import SuiteConfig
from sweeper.evaluation.tasks import LeafTask, in_chat

_TRIED = 8
"""So many of a task's largest texts are tokenized: the longest is among them, or hardly longer."""


@dataclass(frozen=True)
class TextLengths:
    """How long a task's texts are, in tokens; an answer is as long as the task lets it be.

    Attributes:
        task: Its name.
        texts: How many there are.
        longest: Of a prompt together with its answer; 0 if there is none.
        windowed: Of a text whose likelihood is asked for as a whole: lm-eval reads it in windows.
        likelihoods: Whether it is asked how likely texts are.
    """

    task: str
    texts: int
    longest: int
    windowed: int
    likelihoods: bool


def text_lengths(
    leaves: Sequence[LeafTask],
    config: SuiteConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    chat: bool,
    system_prompt: str | None,
    over: float,
) -> list[TextLengths]:
    """How long the texts of each task are.

    Args:
        leaves: The suite's tasks.
        config: The suite.
        tokenizer: Of the model that reads them.
        chat: Whether training uses the chat template.
        system_prompt: The study's.
        over: Of prompts that are longer than so many tokens, the longest is found for sure.
    """
    templated, system = in_chat(config, chat=chat, system_prompt=system_prompt)

    def render(turns: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        options: dict[str, Any] = {
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        try:
            return str(tokenizer.apply_chat_template(turns, **options))
        except TemplateError:  # lm-eval does without what the template refuses
            others = [turn for turn in turns if turn["role"] != "system"]
            return str(tokenizer.apply_chat_template(others, **options))

    def longest(texts: Iterator[tuple[str, int]], over: float) -> int:
        found = 0
        # A token is a byte at least.
        sized = [(len(text.encode()) + sampled, text, sampled) for text, sampled in texts]
        sized.sort(key=lambda one: one[0], reverse=True)
        for number, (most, text, sampled) in enumerate(sized):
            if most <= found or (number >= _TRIED and most <= over):
                break
            tokens = tokenizer(text, add_special_tokens=not templated)["input_ids"]
            found = max(found, len(tokens) + sampled)
        return found

    lengths = []
    for leaf in leaves:
        leaf.task.build_all_requests(
            samples=list(leaf.documents),
            system_instruction=system,
            apply_chat_template=templated,
            fewshot_as_multiturn=templated,
            chat_template=render if templated else None,
        )
        kinds = {request.request_type for request in leaf.task.instances}
        lengths.append(
            TextLengths(
                task=leaf.name,
                texts=len(leaf.task.instances),
                longest=longest(_prompts(leaf.task), over),
                windowed=longest(_whole_texts(leaf.task), float("inf")),
                likelihoods=kinds != {"generate_until"},
            )
        )
    return lengths


def _prompts(task: Any) -> Iterator[tuple[str, int]]:
    """What a model is given to read at once, and how many tokens it may write after that."""
    for request in task.instances:
        if request.request_type == "generate_until":
            text, options = request.args
            yield text, normalize_gen_kwargs(options)["max_gen_toks"]
        elif request.request_type == "loglikelihood":
            yield "".join(request.args), 0


def _whole_texts(task: Any) -> Iterator[tuple[str, int]]:
    """Texts whose likelihood is asked for as a whole."""
    for request in task.instances:
        if request.request_type == "loglikelihood_rolling":
            yield request.args[0], 0
