"""Lengths of the texts that a suite has a model read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import PreTrainedTokenizerBase

from sweeper.config.suite import SuiteConfig
from sweeper.evaluation.tasks import LeafTask, in_chat
from sweeper.foundation.errors import BadInputError

_TRIED = 8
"""Number of a task's largest texts to tokenize: the longest is among them, or hardly longer."""


@dataclass(frozen=True)
class TextLengths:
    """Lengths of a task's texts in tokens, with answers as long as the task allows."""

    task: str
    texts: int
    """Number of texts."""
    longest: int
    """Tokens of the longest prompt together with its answer; 0 if there is none."""
    windowed: int
    """Tokens of the longest text whose whole likelihood lm-eval scores, in windows."""
    likelihoods: bool
    """True if the task scores likelihoods of texts."""


def text_lengths(
    leaves: Sequence[LeafTask],
    config: SuiteConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    chat: bool,
    system_prompt: str | None,
    over: float,
) -> list[TextLengths]:
    """Measure the texts of each task; above ``over`` tokens, the longest prompt exactly.

    Raises:
        BadInputError: The chat template refuses the prompts or leaves out their system message.
    """
    templated, system = in_chat(config, chat=chat, system_prompt=system_prompt)

    def render(turns: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        options: dict[str, Any] = {
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        try:
            text = str(tokenizer.apply_chat_template(turns, **options))
        except TemplateError as error:
            # lm-eval would leave the system message out, in silence.
            message = f"expected prompts that the chat template takes, but it says: {error}"
            raise BadInputError(message) from error
        if system and "".join(system.split()) not in "".join(text.split()):
            message = "expected no system_instruction: the chat template has no place for it"
            raise BadInputError(message)
        return text

    def longest(texts: Iterator[tuple[str, int]], over: float) -> int:
        most_tokens = 0
        # A token is at least a byte.
        sized = [(len(text.encode()) + sampled, text, sampled) for text, sampled in texts]
        sized.sort(key=lambda item: item[0], reverse=True)
        for number, (most, text, sampled) in enumerate(sized):
            if most <= most_tokens or (number >= _TRIED and most <= over):
                break
            tokens = tokenizer(text, add_special_tokens=not templated)["input_ids"]
            most_tokens = max(most_tokens, len(tokens) + sampled)
        return most_tokens

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
    """Yield each text that a model reads at once, and the number of tokens it may write then."""
    for request in task.instances:
        if request.request_type == "generate_until":
            text, options = request.args
            yield text, normalize_gen_kwargs(options)["max_gen_toks"]
        elif request.request_type == "loglikelihood":
            yield "".join(request.args), 0


def _whole_texts(task: Any) -> Iterator[tuple[str, int]]:
    """Yield each text whose whole likelihood is scored."""
    for request in task.instances:
        if request.request_type == "loglikelihood_rolling":
            yield request.args[0], 0
