"""What a search may start with, and what is refused at its place in the study file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import load_study, schema
from sweeper.config.start_with import EarlierStudyConfig
from tests.support.study_texts import STUDY, load, problems

SPACE = """\
    search:
      lmbda: {type: float, low: 0.0, high: 1.0, step: 0.1}
      beta: {type: categorical, choices: [0.0, 0.5, 1.0]}
      temperature: {type: float, low: 0.3, high: 1.0}
      max_new_tokens: {type: int, low: 8, high: 32, step: 8}
      disable_dropout: {type: categorical, choices: [true, false]}
"""
HERE = "    start_with"


def with_start(entries: str, space: str = SPACE) -> str:
    """The study of the problems' tests, whose arm ``gkd`` starts with ``entries``."""
    before, _, after = STUDY.partition("    settings: {max_new_tokens: 8}\n")
    rest = after[after.index("  sft:") :]
    settings = "    settings: {seq_kd: false}\n"
    return f"{before}{settings}{space}    start_with: {entries}\n{rest}"


def test_settings_are_read_as_the_search_would_sample_them(folder: Path) -> None:
    entries = "[{lmbda: 1, beta: 0, temperature: 1, max_new_tokens: 16}, {beta: 0.5}]"
    first, second = load(folder, with_start(entries)).config.arms["gkd"].start_with
    assert repr(first) == repr(
        {"lmbda": 1.0, "beta": 0.0, "temperature": 1.0, "max_new_tokens": 16}
    )
    assert second == {"beta": 0.5}


@pytest.mark.parametrize("entries", ["{study: pilot, best: 3}", "[{study: pilot, best: 3}]"])
def test_an_earlier_study_is_named(folder: Path, entries: str) -> None:
    [entry] = load(folder, with_start(entries)).config.arms["gkd"].start_with
    assert entry == EarlierStudyConfig(study="pilot", best=3)


def test_one_entry_needs_no_list_and_the_command_line_may_set_it(folder: Path) -> None:
    assert load(folder, with_start("{beta: 0.5}")).config.arms["gkd"].start_with == ({"beta": 0.5},)
    study = load(folder, with_start("{beta: 0.5}"), ["arms.gkd.start_with=[]"])
    assert study.config.arms["gkd"].start_with == ()
    study = load_study(study.path, ["arms.gkd.start_with={study: pilot}"])
    assert study.config.arms["gkd"].start_with == (EarlierStudyConfig(study="pilot"),)


KEY = "arms.gkd.start_with"
ONE_MISTAKE = [
    # entries
    ("5", KEY, "expected a list of settings, or {study: PATH, best: N}, found 5"),
    ("", KEY, "expected a list of settings, or {study: PATH, best: N}, found None"),
    ("[0.5]", f"{KEY}.0", "expected a mapping, found 0.5"),
    ("[{}]", f"{KEY}.0", "expected at least one setting, found none"),
    ("[{beta: 0.5}, {beta: .5}]", f"{KEY}.1", "other settings than entry 1, found the same again"),
    # names
    ("[{bta: 0.5}]", f"{KEY}.0.bta", "did you mean 'beta'"),
    ("{bta: 0.5}", f"{KEY}.bta", "did you mean 'beta'"),
    ("[{xyzzy: 0.5}]", f"{KEY}.0.xyzzy", "expected one of lmbda, beta, temperature"),
    ("[{warmup_ratio: 0.1}]", f"{KEY}.0.warmup_ratio", "is not searched here; expected only what"),
    ("[{seq_kd: true}]", f"{KEY}.0.seq_kd", "'seq_kd' is fixed in the arm's settings"),
    # values
    ("[{beta: 0.25}]", f"{KEY}.0.beta", "expected one of 0.0, 0.5, 1.0, as the arm's search has"),
    ("[{beta: '0.5'}]", f"{KEY}.0.beta", "expected one of 0.0, 0.5, 1.0, as the arm's search has"),
    ("[{beta: true}]", f"{KEY}.0.beta", "search has it, found True"),
    ("[{disable_dropout: 1}]", f"{KEY}.0.disable_dropout", "expected one of True, False"),
    ("[{lmbda: 1.5}]", f"{KEY}.0.lmbda", "expected a number between 0.0 and 1.0"),
    ("[{lmbda: .nan}]", f"{KEY}.0.lmbda", "or a finite number or"),
    ("[{lmbda: true}]", f"{KEY}.0.lmbda", "expected a number, as the arm's search has it"),
    ("[{lmbda: null}]", f"{KEY}.0.lmbda", "expected a number, as the arm's search has it"),
    ("[{lmbda: 0.25}]", f"{KEY}.0.lmbda", "expected 0.0 plus a number of steps of 0.1"),
    ("[{lmbda: [0.5]}]", f"{KEY}.0.lmbda", "found [0.5]"),
    ("[{lmbda: .5, max_new_tokens: 16.0}]", f"{KEY}.0.max_new_tokens", "expected a whole number"),
    ("[{lmbda: .5, max_new_tokens: 12}]", f"{KEY}.0.max_new_tokens", "8 plus a number of steps"),
    # conditions
    ("[{lmbda: 0, temperature: 0.9}]", f"{KEY}.0.temperature", "has no effect at lmbda: 0.0"),
    ("[{temperature: 0.9}]", f"{KEY}.0.temperature", "expected lmbda next to it: 'temperature'"),
    # earlier studies
    ("{best: 3}", f"{KEY}.study", "required, but missing"),
    ("{study: 5}", f"{KEY}.study", "expected a string, found 5"),
    ("{study: ''}", f"{KEY}.study", "expected some text"),
    ("{study: x, best: 0}", f"{KEY}.best", "greater than or equal to 1, found 0"),
    ("[{study: x, best: all}]", f"{KEY}.0.best", "expected a whole number, found 'all'"),
    ("{study: x, bets: 2}", f"{KEY}.bets", "did you mean 'best'"),
    ("{study: x, arm: ../gkd}", f"{KEY}.arm", "a name of letters, digits"),
    ("{study: x, beta: 0.5}", f"{KEY}.beta", "unknown key 'beta'"),
]


@pytest.mark.parametrize(("entries", "key", "message"), ONE_MISTAKE)
def test_one_mistake_is_told_once_at_its_line(
    folder: Path, entries: str, key: str, message: str
) -> None:
    text = with_start(entries)
    [problem] = problems(folder, text)
    assert problem.path == key
    assert message in problem.message
    assert problem.line == text[: text.index(HERE)].count("\n") + 1


def test_a_key_on_a_line_of_its_own_is_told_there(folder: Path) -> None:
    text = with_start("\n      study: pilot\n      best: none")
    [problem] = problems(folder, text)
    assert problem.line == text[: text.index("best: none")].count("\n") + 1


def test_an_arm_that_searches_nothing_starts_with_nothing(folder: Path) -> None:
    for entries in ("[{beta: 0.5}]", "{study: pilot}"):
        [problem] = problems(folder, with_start(entries, space=""))
        assert problem.path == KEY
        assert "the arm searches nothing; fix values in its settings" in problem.message


def test_dropout_of_the_adapter_needs_dropout(folder: Path) -> None:
    space = SPACE + "      lora.dropout: {type: float, low: 0.0, high: 0.5}\n"
    lora = ("builtin/adder-student}", "builtin/adder-student, lora: {r: 4}}")
    for entry, message in (
        ("{lora.dropout: 0.1}", "expected disable_dropout next to it"),
        ("{lora.dropout: 0.1, disable_dropout: true}", "has no effect at disable_dropout: True"),
    ):
        [problem] = problems(folder, with_start(entry, space).replace(*lora))
        assert message in problem.message
    load(folder, with_start("{lora.dropout: 0.1, disable_dropout: false}", space).replace(*lora))


def test_editors_accept_both_forms() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    plain = schema()
    start = plain["$defs"]["ArmConfig"]["properties"]["start_with"]
    start = {"anyOf": start["anyOf"], "$defs": plain["$defs"]}
    forms: list[Any] = [[{"beta": 0.5}], {"study": "x", "best": 2}, [{"study": "x"}], {"beta": 1}]
    for form in forms:
        jsonschema.validate(form, start)
    for form in (5, [5], [[]]):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(form, start)
