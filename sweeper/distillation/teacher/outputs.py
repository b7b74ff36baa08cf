"""The teacher's own answers to the prompts: generated once, and stored for every trial.

A teacher that is loaded generates them; one with a server is asked for them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeper.distillation.data.examples import TokenizedData, render_prompt
from sweeper.distillation.data.text_batches import token_ids
from sweeper.distillation.data.training_data import TrainingData
from sweeper.distillation.models.answer_ends import answer_ends, end_token_ids, turn_end_ids
from sweeper.distillation.models.loading import computing_threads
from sweeper.distillation.sampling.rollouts import generate
from sweeper.distillation.teacher import served_answers, served_prompts
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.foundation.cache import Cache, content_key
from sweeper.foundation.errors import BadInputError
from sweeper.records.seeds import teacher_outputs_seed

_FILE = "answers.jsonl"


def get_or_compute(
    data: TrainingData,
    teacher: SharedTeacher,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[int, ...] | None]:
    """Return the teacher's answer to each example, with the end token if it ended by itself.

    It is an end token of the student's, whichever of its own the teacher wrote. A served teacher
    may leave examples without an answer.

    ``report`` gets the number of prompts answered and their total.

    Raises:
        BadInputError: A served teacher refuses to answer at all.
        NoAnswerError: It does not answer.
    """
    rows = _rows(data, teacher, report)
    return [None if row["tokens"] is None else tuple(row["tokens"]) for row in rows]


def notes(data: TrainingData, teacher: SharedTeacher) -> tuple[str, ...]:
    """Return what the user should know of the teacher's answers, as sentences without a stop."""
    rows = _rows(data, teacher)
    longest = data.inputs.teacher_outputs.max_new_tokens
    cut = sum(row["tokens"] is not None and not row["finished"] for row in rows)
    found = []
    if cut:
        found.append(
            f"{cut} of the {len(rows)} answers for seqkd and seq_kd were cut at {longest}"
            " tokens (teacher_outputs.max_new_tokens)"
        )
    if missing := [(number, row) for number, row in enumerate(rows, 1) if row["tokens"] is None]:
        number, first = missing[0]
        kinds = Counter(str(row["missing"]) for _, row in missing)
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        found.append(
            f"{len(missing)} of the {len(rows)} prompts have no answer of the teacher's, and are"
            f" left out where answers are trained on: {counted}; the first is row {number}"
            f" ({first['missing']})"
        )
    if used := [row["usage"] for row in rows if "usage" in row]:
        asked, answered = (sum(counts) for counts in zip(*used, strict=True))
        found.append(f"the server counted {asked:,} tokens of prompts and {answered:,} of answers")
    return tuple(found)


def _rows(
    data: TrainingData,
    teacher: SharedTeacher,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Return the stored answers, one row for each example; get them if they are not there."""

    def build(directory: Path) -> None:
        make = _generated if teacher.config.server is None else _asked_for
        with (directory / _FILE).open("w", encoding="utf-8") as file:
            for row in make(data, teacher, report):
                file.write(json.dumps(row) + "\n")

    def read(directory: Path) -> list[dict[str, Any]]:
        with (directory / _FILE).open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    key = _determinants(data, teacher)
    return Cache(Path(data.inputs.cache)).read("teacher_outputs", key, build, read)


def _generated(
    data: TrainingData, teacher: SharedTeacher, report: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Generate the answers here."""
    inputs, tokenizer = data.inputs, data.tokenizer
    settings = inputs.teacher_outputs

    asked = data.asked_of(teacher.config).tokenizer
    prompts = token_ids([render_prompt(example, asked) for example in data.examples], asked)
    ends, end = turn_end_ids(tokenizer), answer_ends(tokenizer)[0]

    def count(done: int) -> None:
        if done % settings.batch_size == 0 or done == len(prompts):
            report(done, len(prompts))

    with computing_threads(inputs.cache_threads):
        model = teacher.load()
        answers = generate(
            model,
            prompts,
            temperature=settings.temperature,
            max_new_tokens=settings.max_new_tokens,
            end_ids=sorted({*end_token_ids(model, asked), *ends}),
            pad_id=int(tokenizer.pad_token_id),
            seed=teacher_outputs_seed(inputs.seed),
            batch_size=settings.batch_size,
            report=count,
        )
    rows = []
    for example, answer in zip(data.examples, answers, strict=True):
        tokens = list(answer.tokens)
        if answer.finished and tokens[-1] not in ends:
            tokens[-1] = end
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        row = {"prompt": example.prompt, "answer": text, "finished": answer.finished}
        rows.append({**row, "tokens": tokens})
    return rows


def _asked_for(
    data: TrainingData, teacher: SharedTeacher, report: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Ask the teacher's server for the answers.

    Raises:
        BadInputError: No prompt has an answer.
    """
    server, inputs = teacher.config.server, data.inputs
    assert server is not None
    asked = data.asked_of(teacher.config)
    replies = served_answers.ask_all(
        teacher.config,
        served_prompts.requests(data, asked, server),
        Path(inputs.cache),
        inputs.teacher_outputs.max_new_tokens,
        report,
        teacher.resources.served_teacher,
    )
    as_tokens = served_prompts.AnswersAsTokens(data.tokenizer, asked.tokenizer)
    rows: list[dict[str, Any]] = []
    counted: set[int] = set()
    for example, reply in zip(data.examples, replies, strict=True):
        row = {"prompt": example.prompt, "answer": reply.text, "finished": reply.finished}
        row |= {"missing": reply.missing, "tokens": None}
        if id(reply) not in counted:  # equal prompts are asked once
            counted.add(id(reply))
            row["usage"] = [reply.prompt_tokens, reply.completion_tokens]
        if reply.missing is None:
            try:
                row["tokens"] = list(as_tokens(example, reply))
            except BadInputError as error:
                row["missing"] = f"unfit for the student's chat template ({error})"
        rows.append(row)
    if all(row["tokens"] is None for row in rows):
        raise BadInputError(
            f"expected answers from the server, but none of its {len(rows)} replies has one; the"
            f" first: {rows[0]['missing']}",
            ("teacher", "server"),
        )
    return rows


def tokens(data: TrainingData, teacher: SharedTeacher, max_length: int) -> TokenizedData:
    """Return the prompts with the teacher's answers, as token ids."""
    key = content_key(_determinants(data, teacher))
    return data.tokens(max_length, lambda: get_or_compute(data, teacher), key)


def _determinants(data: TrainingData, teacher: SharedTeacher) -> dict[str, Any]:
    """Return everything that decides the answers."""
    tokenizer, settings = data.tokenizer, data.inputs.teacher_outputs
    # How many prompts a loaded teacher reads at a time shows in the last bits; a server's do not.
    served = teacher.config.server is not None
    return {
        **teacher.determinants(sampled=settings.temperature > 0),
        "data": data.fingerprint,
        **data.text_key,
        "asked": data.asked_of(teacher.config).text_key,
        "ends": sorted(turn_end_ids(tokenizer)),
        "padding": tokenizer.pad_token_id,
        "settings": settings.model_dump(exclude={"batch_size"} if served else None),
    }
