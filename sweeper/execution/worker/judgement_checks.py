"""Checks that a served teacher can judge what trials train on, before there is one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import NamedTuple

from sweeper.config.judgement import Judged
from sweeper.config.lengths import Key
from sweeper.config.started_server import StartedServer
from sweeper.distillation.data.compatibility import token_ids
from sweeper.distillation.data.training_data import TrainingData
from sweeper.distillation.teacher import outputs
from sweeper.distillation.teacher.served_judge import ServedJudge, Text
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.foundation.errors import BadInputError

Lengths = Callable[[int, bool], Sequence[tuple[int, int]] | None]
"""Gives the tokens of prompts and answers, the teacher's own or the references, read up to a
length; None if they are not known."""
_TOO_MANY = re.compile(r"logprobs", re.IGNORECASE)
_TOO_LONG = re.compile(
    r"context length|model.{0,3}len|(?:longer|greater) than|too long|max_tokens must be at least 1",
    re.IGNORECASE,
)
_MAX_LENGTH = ("teacher", "server", "max_length")


class Longest(NamedTuple):
    """The longest sequence that the teacher may have to read."""

    tokens: int
    key: Key
    """Key that limits it."""


def longest_judged(judged: Judged, lengths: Lengths) -> Longest:
    """Return the longest sequence of all arms, as far as their lengths are known."""
    found = [Longest(0, ())]
    for arm in judged.arms:
        limits = arm.limits
        for own in arm.sources:
            rows = [(p, a) for p, a in lengths(limits.longest, own) or () if p < limits.longest]
            most = max((min(p + a, limits.longest) for p, a in rows), default=0)
            found.append(Longest(most, limits.longest_key))
        if limits.sampled is not None:
            prompts = [p for p, _ in lengths(limits.longest, False) or () if p < limits.longest]
            most = max(prompts, default=0) + limits.sampled
            found.append(Longest(most, limits.sampled_key))
    return max(found, key=lambda one: one.tokens)


def check_started(judged: Judged, material: TrainingData) -> None:
    """Check that the server that sweeper starts reads what it has to judge.

    The teacher's own answers are not known yet.

    Raises:
        BadInputError: Its ``max_length`` is too small.
    """
    server = material.inputs.teacher.server
    if not isinstance(server, StartedServer) or server.max_length is None:
        return

    def lengths(longest: int, own: bool) -> Sequence[tuple[int, int]] | None:
        return None if own else material.tokens(longest).lengths

    longest = longest_judged(judged, lengths)
    if longest.tokens + 1 > server.max_length:
        message = (
            f"expected at least {longest.tokens + 1}, for sequences of {longest.tokens} tokens"
            f" ({'.'.join(longest.key)}) and the one that a server always adds"
        )
        raise BadInputError(f"{message}, found {server.max_length}", _MAX_LENGTH)


def ask_for_most(judged: Judged, teacher: SharedTeacher, data: TrainingData) -> None:
    """Ask the server once for as much as any trial may: the longest text, the most tokens.

    Raises:
        BadInputError: It refuses that.
        NoAnswerError: It does not answer.
    """

    def lengths(longest: int, own: bool) -> Sequence[tuple[int, int]]:
        read = outputs.tokens(data, teacher, longest) if own else data.tokens(longest)
        return read.lengths

    longest, k = longest_judged(judged, lengths), judged.top_k
    # As many tokens, whatever they say.
    prompt = data.tokens(max(arm.limits.longest for arm in judged.arms)).sequences[0].prompt
    count = max(2, longest.tokens)
    text = Text(tuple(islice(cycle(prompt), count)), (count - 1,))
    place, vocabulary = teacher.resources.served_teacher, token_ids(data.inputs.student)
    try:
        with ServedJudge(teacher.config, place, k, vocabulary) as judge:
            judge.result(judge.ask(text))
    except BadInputError as error:
        said = str(error)
        if k and _TOO_MANY.search(said):
            message = (
                f"expected as many tokens as the server reports, found {k}: start it again with"
                f" --max-logprobs {k}, or write a smaller teacher_top_k ({said})"
            )
            raise BadInputError(message, judged.top_k_key) from None
        if _TOO_LONG.search(said):
            started = isinstance(teacher.config.server, StartedServer)
            more = "write a larger teacher.server.max_length"
            if not started:
                more = f"start it again with --max-model-len {count + 1}"
            message = (
                f"expected sequences that the server reads, found one of {count} tokens: {more},"
                f" or a smaller {'.'.join(longest.key) or 'max_length'} ({said})"
            )
            raise BadInputError(message, _MAX_LENGTH if started else longest.key) from None
        raise
