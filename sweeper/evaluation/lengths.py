"""How long the texts are that a suite has a model read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jinja2 import TemplateError
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import PreTrainedTokenizerBase

from sweeper.config.suite import SuiteConfig
from sweeper.evaluation.tasks import LeafTask, in_chat


def longest_text(
    leaves: Sequence[LeafTask],
    config: SuiteConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    chat: bool,
    system_prompt: str | None,
    over: int,
) -> int:
    """Tokens of the longest prompt together with its answer, if there is one beyond ``over``.

    An answer that a model writes counts as long as the task lets it be. Texts whose likelihood is
    asked for as a whole do not count: lm-eval reads them in windows.

    Args:
        leaves: The suite's tasks.
        config: The suite.
        tokenizer: Of the model that reads them.
        chat: Whether training uses the chat template.
        system_prompt: The study's.
        over: What is shorter need not be told, and is found without tokenizing it.

    Returns:
        The tokens; 0 if no text is longer than ``over``.
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

    longest = 0
    for leaf in leaves:
        leaf.task.build_all_requests(
            samples=list(leaf.documents),
            system_instruction=system,
            apply_chat_template=templated,
            fewshot_as_multiturn=templated,
            chat_template=render if templated else None,
        )
        for text, sampled in _requests(leaf.task):
            # A token is a byte at least.
            if len(text.encode()) + sampled > max(over, longest):
                tokens = tokenizer(text, add_special_tokens=not templated)["input_ids"]
                longest = max(longest, len(tokens) + sampled)
    return longest if longest > over else 0


def _requests(task: Any) -> Iterator[tuple[str, int]]:
    """What a model is given to read at once, and how many tokens it may write after that."""
    for request in task.instances:
        if request.request_type == "generate_until":
            text, options = request.args
            yield text, normalize_gen_kwargs(options)["max_gen_toks"]
        elif request.request_type == "loglikelihood":
            yield "".join(request.args), 0
