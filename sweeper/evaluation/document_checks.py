"""Documents that a run would refuse or misread: found when a suite's tasks are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sweeper.evaluation.templates import (
    Field,
    check_names,
    is_template,
    names_of,
    short,
    written_list,
    wrong_choice,
)
from sweeper.foundation.data_folders import first_line
from sweeper.foundation.errors import BadInputError


def check_fields(task: Any) -> None:
    """Check the templates of a loaded task by the columns of its documents.

    Raises:
        BadInputError: One names something else, or is not valid; lists the columns.
    """
    config, columns = task.config, list(task.features)
    examples = task.sampler.df if getattr(task, "sampler", None) else ()
    shown = list(examples[0]) if examples and isinstance(examples[0], Mapping) else columns
    fewshot = task.fewshot_cfg
    for key in ("doc_to_text", "doc_to_target", "doc_to_choice", "description", "gen_prefix"):
        _check_template(key, getattr(config, key), columns)
        if config.num_fewshot and getattr(fewshot, key, None) is not None:
            _check_template(f"fewshot_config.{key}", getattr(fewshot, key), shown)
    choices = config.doc_to_choice
    given = getattr(choices, "given", None)
    if isinstance(given, str):
        choices = written_list(given)
    items = choices.values() if isinstance(choices, dict) else choices
    prompt = getattr(config.doc_to_text, "given", None)
    if isinstance(choices, list | tuple | dict) and isinstance(prompt, str):
        # Letters of choices that the prompt lists are no columns' names by mistake.
        named = [item for item in items if item in columns]
        if named and not set(named) <= names_of(prompt):
            raise BadInputError(
                f"doc_to_choice: {named[0]!r} is a column, and would be taken for the choice"
                ' itself; write the columns as in "{{[first, second]}}"'
            )


def _check_template(key: str, given: Any, columns: Sequence[str]) -> None:
    text = getattr(given, "given", given)
    if not isinstance(text, str) or not is_template(text):
        return
    try:
        check_names(text, columns)
    except BadInputError as error:
        raise BadInputError(f"{key}: {error}") from error


def check_metrics(task: Any) -> None:
    """Check that a task's metrics can be computed.

    Raises:
        BadInputError: One is neither lm-eval's nor of the library evaluate.
    """
    if task.OUTPUT_TYPE != "generate_until" or task.config.process_results is not None:
        return
    for name, function in task._metric_fn_list.items():
        if function is None:
            raise BadInputError(
                f"metric_list: the metric {name!r} cannot be loaded from the library evaluate"
            )


def try_filters(task: Any, document: Mapping[str, Any]) -> None:
    """Apply a task's filters to an answer, as scoring does.

    Raises:
        BadInputError: A filter cannot be made or applied as the task file says.
    """
    generates = task.OUTPUT_TYPE == "generate_until"
    answer: Any = "" if generates else (0.0, False)
    for ensemble in task._filters:
        answers: Any = [[answer] * max(1, task.config.repeats)]
        for make in ensemble.filters:
            try:
                answers = list(make().apply(answers, [document]))
            except Exception as error:  # whatever a filter raises
                step = getattr(make, "func", make)
                raise BadInputError(
                    f"filter_list: {getattr(step, '__name__', step)} of {ensemble.name!r} cannot be"
                    f" applied: {type(error).__name__}: {first_line(error)}"
                ) from error
            selected = getattr(make, "keywords", {}).get("group_select", 0)
            if not isinstance(selected, int) or isinstance(selected, bool):
                raise BadInputError(
                    f"filter_list: expected a whole number as group_select of {ensemble.name!r},"
                    f" found {short(selected)}"
                )


def check_documents(
    task: Any, numbers: Sequence[int], document: Callable[[int], Any], cluster: str | None
) -> None:
    """Make every prompt, target and choice of a task's documents, as scoring does.

    Args:
        task: lm-eval's task of a file of the user's.
        numbers: Indices of the documents that are scored.
        document: Returns one by its index.
        cluster: A column that must hold a value.

    Raises:
        BadInputError: A document has none that can be scored; names the document and the cause.
    """
    documents = {number: document(number) for number in numbers}
    _check_examples(task, documents)
    kinds: set[str] = set()
    digits = task.config.doc_to_choice is not None
    for number, doc in documents.items():
        try:
            kinds.add(_check_document(task, doc))
            if len(kinds) > 1:
                raise BadInputError(
                    "doc_to_target: expected one kind of target, found single values and lists"
                )
            if cluster is not None and doc[cluster] is None:
                raise BadInputError(f"expected a value in {cluster!r} (cluster_by), found none")
            text = task.doc_to_text(doc)
            digits = digits and isinstance(text, str) and text.isdigit()
        except BadInputError as error:
            raise BadInputError(f"document {number}: {error}") from error
        except Exception as error:  # whatever lm-eval raises of a prompt
            raise BadInputError(
                f"document {number} cannot be asked: {type(error).__name__}: {first_line(error)}"
            ) from error
    if digits:
        raise BadInputError(
            "doc_to_text: every prompt is a number; if it is the index of a choice, write"
            " {{column|int}}"
        )


def _check_document(task: Any, doc: Any) -> str:
    """Check one document; return the kind of its target."""
    for key in ("description", "gen_prefix"):
        if text := getattr(task.config, key):
            Field(key, "text", text, own=True, literal=True)(doc)
    target = task.doc_to_target(doc)
    kind = "lists" if isinstance(target, list) else "single values"
    if task.config.doc_to_choice is not None:
        choices = task.doc_to_choice(doc)
        gold = task.doc_to_text(doc) if task.multiple_input else target
        for one in gold if isinstance(gold, list) else [gold]:
            known = one in choices and not isinstance(gold, list)
            if not known and not (isinstance(one, int) and 0 <= one < len(choices)):
                raise BadInputError(f"doc_to_target: {wrong_choice(choices, one)}")
    elif isinstance(target, list) and task.OUTPUT_TYPE != "generate_until":
        raise BadInputError(f"doc_to_target: expected one text, found the list {short(target)}")
    if target == "" and task.OUTPUT_TYPE in ("loglikelihood", "loglikelihood_rolling"):
        raise BadInputError("doc_to_target: expected the text to score, found none")
    shots = task.config.num_fewshot or 0
    prompt = task.fewshot_context(doc, num_fewshot=shots, gen_prefix=task.doc_to_prefix(doc))
    if task.OUTPUT_TYPE == "generate_until" and not str(prompt).strip():
        raise BadInputError("doc_to_text: expected a prompt, found none")
    task.construct_requests(doc, prompt, metadata=(task.task_name, 0, 1))
    return kind


def _check_examples(task: Any, documents: Mapping[int, Any]) -> None:
    """Check that there are enough solved examples, none of them a document that is scored."""
    shots = task.config.num_fewshot or 0
    if not shots:
        return
    config = task.config
    pool = list(task.sampler.df)
    # lm-eval leaves a document out of its own examples where the two are the same.
    apart = task.fewshot_cfg.split == config.test_split
    if shots + apart > len(pool):
        raise BadInputError(
            f"num_fewshot: expected at most {max(0, len(pool) - apart)}, the number of examples"
            f" there are, found {shots}"
        )
    keys = {_key(example) for example in pool}
    for number, doc in () if apart else documents.items():
        if _key(doc) in keys:
            raise BadInputError(
                f"fewshot_split: document {number} may be an example in its own prompt; name a"
                " split of other documents, or the split that is scored itself: a document is then"
                " left out of its own prompt"
            )


def _key(document: Any) -> str:
    return repr(sorted(document.items())) if isinstance(document, Mapping) else repr(document)
