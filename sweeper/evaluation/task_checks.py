"""Values of a task file that a run would refuse or misread: found when the file is read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from lm_eval.api.registry import aggregation_registry, filter_registry, metric_registry
from lm_eval.api.task import ALL_OUTPUT_TYPES
from lm_eval.config.task import FewshotConfig, TaskConfig
from transformers import GenerationConfig

from sweeper.evaluation.templates import (
    check_choices,
    is_template,
    short,
)
from sweeper.foundation.errors import BadInputError

_KEYS = {item.name for item in fields(TaskConfig)} | {"group", "group_alias", "class"}
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(
        ("dataset_path", "description", "target_delimiter", "fewshot_delimiter", "gen_prefix",
         "training_split", "validation_split", "test_split", "fewshot_split", "use_prompt"),
        ((str,), "text"),
    ),
    **dict.fromkeys(
        ("dataset_kwargs", "fewshot_config", "generation_kwargs"), ((dict,), "keys with values")
    ),
    **dict.fromkeys(("metric_list", "filter_list"), ((list,), "a list")),
    **dict.fromkeys(("unsafe_code", "should_decontaminate"), ((bool,), "true or false")),
    "num_fewshot": ((int,), "a whole number"),
    "repeats": ((int,), "a whole number"),
}  # fmt: skip
_FUNCTIONS = ("process_docs", "process_results", "custom_dataset")
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_RANGES = {"top_p": (0, 1), "top_k": (0, None), "min_p": (0, 1), "typical_p": (0, 1),
           "num_beams": (1, None), "num_return_sequences": (1, 1), "repetition_penalty": (0, None),
           "no_repeat_ngram_size": (0, None)}  # fmt: skip
_TAKEN = ("max_length", "stopping_criteria", "pad_token_id", "use_cache", "input_ids")
"""Arguments of ``generate`` that lm-eval fills itself."""


def check_values(config: Mapping[str, Any]) -> None:
    """Check the values of a task file, before its documents are read.

    Raises:
        BadInputError: A key is unknown, or its value cannot be meant; names the key.
    """
    _check_keys(config, _KEYS, "")
    for key, (kinds, expected) in _KINDS.items():
        value = config.get(key)
        if value is None and key not in ("target_delimiter", "fewshot_delimiter"):
            continue
        if key in config and (not isinstance(value, kinds) or _is_odd_number(value, kinds)):
            raise BadInputError(f"{key}: expected {expected}, found {short(value)}")
    for key in _FUNCTIONS:
        if config.get(key) is not None and not callable(config[key]):
            raise BadInputError(
                f"{key}: expected a function, found {short(config[key])}; write !function before it"
            )
    _check_fields(config)
    if config.get("output_type", "generate_until") == "generate_until":
        _check_generation(config.get("generation_kwargs") or {})
    _check_metrics(config)
    _check_filters(config.get("filter_list"))


def _is_odd_number(value: Any, kinds: Sequence[type]) -> bool:
    return kinds == (int,) and (isinstance(value, bool) or value < 0)


def _check_keys(values: Mapping[str, Any], known: Iterable[str], within: str) -> None:
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(str(key), list(known), 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise BadInputError(f"{within}{key}: lm-eval has no such key of a task{hint}")


def _check_fields(config: Mapping[str, Any]) -> None:
    output = config.get("output_type", "generate_until")
    if output not in ALL_OUTPUT_TYPES:
        raise BadInputError(
            f"output_type: expected one of {', '.join(ALL_OUTPUT_TYPES)}, found {short(output)}"
        )
    if not config.get("dataset_path") and config.get("custom_dataset") is None:
        raise BadInputError("dataset_path: expected where the documents are, found nothing")
    if not config.get("test_split") and not config.get("validation_split"):
        raise BadInputError("test_split: expected the split to score, found none")
    fewshot = config.get("fewshot_config") or {}
    _check_keys(fewshot, {item.name for item in fields(FewshotConfig)}, "fewshot_config.")
    choices = config.get("doc_to_choice")
    for key in ("doc_to_text", "doc_to_target"):
        value = config.get(key)
        if value is None:
            raise BadInputError(f"{key}: expected a column or a template, found nothing")
        computed = key == "doc_to_target" and config.get("process_results") is not None
        constant = choices is not None or computed
        _check_field(key, value, constant=constant)
        if fewshot.get(key) is not None:
            _check_field(f"fewshot_config.{key}", fewshot[key], constant=constant)
    if output == "multiple_choice" and choices is None:
        raise BadInputError("doc_to_choice: expected the choices, as multiple_choice needs them")
    if isinstance(choices, list | dict):
        for item in choices.values() if isinstance(choices, dict) else choices:
            if not isinstance(item, str) or is_template(item):
                hint = (
                    'columns and templates are read in one text only, as in "{{[first, second]}}"'
                    if isinstance(item, str)
                    else "quote it if it is text"
                )
                raise BadInputError(f"doc_to_choice: expected texts, found {short(item)}; {hint}")
        check_choices([*(choices.values() if isinstance(choices, dict) else choices)])
    elif choices is not None and not isinstance(choices, str) and not callable(choices):
        raise BadInputError(f"doc_to_choice: expected a list, found {short(choices)}")
    _check_constant_prompt(config, output)


def _check_field(key: str, value: Any, *, constant: bool) -> None:
    if isinstance(value, str) or callable(value):
        return
    # An index among choices may be a constant, and a target that scoring does not read.
    if not isinstance(value, int) or isinstance(value, bool) or not constant:
        raise BadInputError(
            f"{key}: expected a column or a template, found {short(value)}; quote it if it is text"
        )


def _check_constant_prompt(config: Mapping[str, Any], output: str) -> None:
    prompt = config["doc_to_text"]
    varying = (config.get("description"), config.get("gen_prefix"))
    if output != "generate_until" or not isinstance(prompt, str) or is_template(prompt):
        return
    if " " in prompt.strip() and not any(isinstance(t, str) and is_template(t) for t in varying):
        raise BadInputError(
            f"doc_to_text: {short(prompt)} asks every document the same; put a column into it, as"
            " in {{question}}"
        )


def _check_generation(settings: Mapping[str, Any]) -> None:
    within = "generation_kwargs."
    if "until" in settings:
        until = settings["until"]
        ends = [until] if isinstance(until, str) else until
        if not isinstance(ends, list) or not all(isinstance(end, str) and end for end in ends):
            raise BadInputError(
                f"{within}until: expected texts that end an answer, or [], found {short(until)}"
            )
    lengths = {name: settings[name] for name in _LENGTHS if name in settings}
    for name, value in lengths.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadInputError(
                f"{within}{name}: expected a whole number above 0, found {short(value)}"
            )
    if len(set(lengths.values())) > 1:
        raise BadInputError(f"{within[:-1]}: expected one length, found {', '.join(lengths)}")
    samples = settings.get("do_sample")
    if samples is not None and not isinstance(samples, bool):
        raise BadInputError(f"{within}do_sample: expected true or false, found {short(samples)}")
    temperature = settings.get("temperature", 1.0 if samples else 0.0)
    try:
        heat = float("nan") if isinstance(temperature, bool) else float(temperature)
    except (TypeError, ValueError):
        heat = float("nan")
    if not 0 <= heat < float("inf"):
        raise BadInputError(
            f"{within}temperature: expected a number of at least 0, found {short(temperature)}"
        )
    if samples and not settings.get("temperature"):
        raise BadInputError(
            f"{within}temperature: expected a number above 0 next to do_sample: true"
        )
    for name, value in settings.items():
        if name in ("until", "do_sample", "temperature", *_LENGTHS):
            continue
        if name in _TAKEN or not hasattr(_DEFAULTS, str(name)):
            raise BadInputError(f"{within}{name}: no such setting of an answer; leave it out")
        low, high = _RANGES.get(name, (None, None))
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if low is not None and not (number and low <= value <= (high or value)):
            end = f"from {low} to {high}" if high else f"of at least {low}"
            raise BadInputError(f"{within}{name}: expected a number {end}, found {short(value)}")


_DEFAULTS = GenerationConfig()


def _check_metrics(config: Mapping[str, Any]) -> None:
    for number, item in enumerate(config.get("metric_list") or ()):
        place = f"metric_list.{number}"
        if not isinstance(item, Mapping) or "metric" not in item:
            raise BadInputError(f"{place}: expected metric: NAME, found {short(item)}")
        name, aggregation = item["metric"], item.get("aggregation")
        if not isinstance(name, str) and not callable(name):
            raise BadInputError(f"{place}.metric: expected a name, found {short(name)}")
        if isinstance(aggregation, str) and aggregation not in aggregation_registry:
            raise BadInputError(
                f"{place}.aggregation: lm-eval has no {aggregation!r}; it has"
                f" {', '.join(aggregation_registry)}"
            )
        named = isinstance(name, str) and config.get("process_results") is None
        if named and name not in metric_registry and item.get("hf_evaluate") is not True:
            # lm-eval would load whatever the hub has under this name.
            raise BadInputError(
                f"{place}.metric: lm-eval has no metric {name!r}; it has"
                f" {', '.join(metric_registry)}. Write hf_evaluate: true next to one of the library"
                " evaluate, or process_results for one of your own"
            )


def _check_filters(listed: Sequence[Any] | None) -> None:
    if listed is not None and not listed:
        raise BadInputError("filter_list: expected a filter, found []; leave the key out for none")
    names: set[str] = set()
    for number, item in enumerate(listed or ()):
        place = f"filter_list.{number}"
        steps = item.get("filter") if isinstance(item, Mapping) else None
        if not isinstance(steps, list) or not steps or not isinstance(item.get("name"), str):
            raise BadInputError(
                f"{place}: expected name: NAME and filter: with a list, found {short(item)}"
            )
        if item["name"] in names:
            raise BadInputError(f"{place}.name: the filter {item['name']!r} stands there twice")
        names.add(item["name"])
        for step, inner in enumerate(steps):
            function = inner.get("function") if isinstance(inner, Mapping) else None
            known = isinstance(function, str) and function in filter_registry
            if not known and not callable(function):
                raise BadInputError(
                    f"{place}.filter.{step}: lm-eval has no filter {short(function)}; it has"
                    f" {', '.join(filter_registry)}"
                )
