"""Each thing that a user can get wrong is told once, with its place, and how to mend it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sweeper.config.collapse import CollapseConfig
from sweeper.config.loading import load_study, load_suite
from sweeper.foundation.errors import ConfigError
from tests.support.study_texts import STUDY, edit, load, place_of, problems


def test_the_study_that_the_other_tests_break_is_right(folder: Path) -> None:
    study = load(folder)
    assert study.selection.config.suite == "selection"
    assert study.test is not None
    assert study.test.config.suite == "test"
    assert study.config.arms["gkd"].method == "gkd"


# What is changed into what; what stands at the place that is told; the key path; the message.
ONE_MISTAKE = [
    # keys
    ("max_steps: 4", "max_stepz: 4", "max_stepz", "training.max_stepz", "did you mean 'max_steps'"),
    ("seed: 3", "sed: 3", "sed", "sed", "did you mean 'seed'"),
    ("{model: builtin/adder-teacher}", "{modle: x}", "modle", "teacher.modle", "mean 'model'"),
    ("low: 0.1", "lo: 0.1", "lo:", "arms.gkd.search.beta.lo", "did you mean 'low'"),
    ("seed: 3", "3: 3", "3:", "3", "expected a key that is a string, found 3"),
    ("seed: 3", "xyzzy: 3", "xyzzy", "xyzzy", "expected one of study, seed, trials"),
    ("study: tiny\n", "", "seed", "study", "required, but missing"),
    ("  sft:\n", "  offline:\n", "offline", "arms.offline.method", "required, but missing"),
    # types and ranges
    ("seed: 3", "seed: three", "seed", "seed", "expected a whole number, found 'three'"),
    ("seed: 3", "seed: 3.5", "seed", "seed", "expected a whole number, found 3.5"),
    ("seed: 3", "seed: true", "seed", "seed", "expected a whole number, found True"),
    ("seed: 3", "seed: 2020-01-01", "seed", "seed", "expected a whole number"),
    ("seed: 3", "seed: &a [*a]", "seed", "seed", "expected a whole number"),
    ("seed: 3", "seed: -1", "seed", "seed", "expected a number greater than or equal to 0"),
    ("trials: 4", "trials: 0", "trials", "trials", "greater than or equal to 1, found 0"),
    ("1.0e-3", "true", "learning_rate", "training.learning_rate", "expected a number, found True"),
    ("1.0e-3", ".inf", "learning_rate", "training.learning_rate", "finite number, found inf"),
    ("1.0e-3", "'1e-3'", "learning_rate", "training.learning_rate", "a number, found '1e-3'"),
    ("study: tiny", "study: ../x", "study", "study", "a name of letters, digits"),
    ("study: tiny", "study: 5", "study", "study", "expected a string, found 5"),
    ("builtin/adder-teacher", '""', "model", "teacher.model", "expected some text, found ''"),
    (": {model: builtin/adder-teacher}", ": x", "teacher", "teacher", "a mapping, found 'x'"),
    (": {model: builtin/adder-teacher}", ":", "teacher", "teacher", "a mapping, found None"),
    ("{method: sft, max", "{method: dpo, max", "method", "warm_start.method", "'sft' or 'seqkd'"),
    ("adder-student}", "adder-student, lora: true}", "lora", "student.lora", "a mapping"),
    (
        "adder-student}",
        "adder-student, lora: {target_modules: 5}}",
        "target",
        "student.lora.target_modules",
        "expected a list or 'all-linear', found 5",
    ),
    (
        "adder-student}",
        "adder-student, lora: {target_modules: .*_proj}}",
        "target",
        "student.lora.target_modules",
        "expected a list or 'all-linear', found '.*_proj'",
    ),
    *(
        (
            "adder-student}",
            f"adder-student, lora: {{target_modules: [q_proj, {name}]}}}}",
            name,
            "student.lora.target_modules.1",
            f"{expected}, found '{name}'" if "head" in expected else expected,
        )
        for name, expected in {
            "lm_head": "expected no head",
            "model.lm_head": "expected no head",
            "embed_out": "expected no head",
            "output_layer": "expected no head",
            "all-linear": "expected all-linear alone",
        }.items()
    ),
    (
        "adder-student}",
        "adder-student, keep_layers: 1}",
        "keep_layers",
        "student.keep_layers",
        "expected at least 2 layers, or a list of layers, found 1",
    ),
    (
        "adder-student}",
        "adder-student, keep_layers: true}",
        "keep_layers",
        "student.keep_layers",
        "found True",
    ),
    (
        "adder-student}",
        "adder-student, keep_layers: half}",
        "keep_layers",
        "student.keep_layers",
        "found 'half'",
    ),
    (
        "adder-student}",
        "adder-student, keep_layers: []}",
        "keep_layers",
        "student.keep_layers",
        "expected at least one layer, found []",
    ),
    (
        "adder-student}",
        "adder-student, keep_layers: [0, 2.5]}",
        "2.5",
        "student.keep_layers.1",
        "expected the number of a layer, from 0, found 2.5",
    ),
    (
        "adder-student}",
        "adder-student, keep_layers: [-1, 0]}",
        "-1",
        "student.keep_layers.0",
        "expected the number of a layer, from 0, found -1",
    ),
    (
        "adder-student}",
        "adder-student, keep_layers: [3, 1, 3]}",
        "3]",
        "student.keep_layers.2",
        "expected each layer once, found 3 again",
    ),
    (
        "adder-teacher}",
        "adder-teacher, keep_layers: 2}",
        "keep_layers",
        "teacher.keep_layers",
        "expected this key at the student",
    ),
    ("max_steps: 4", "max_steps: 4\n  extra: &a {b: *a}", "extra", "training.extra", "expected"),
    (
        "max_steps: 4",
        "max_steps: 4\n  extra: {a: !!binary /w==}",
        "extra",
        "training.extra",
        "expected only text, numbers, true, false, null, lists and mappings",
    ),
    (
        "max_steps: 4",
        "max_steps: 4\n  extra: {a: {1: b}}",
        "extra",
        "training.extra",
        "lists and mappings with text as keys",
    ),
    # search spaces
    ("low: 0.1", "low: 0.95", "high: 0.9", "arms.gkd.search.beta.high", "at least low = 0.95"),
    ("low: 0.1", "low: -1", "low: -1", "arms.gkd.search.beta.low", "greater than or equal to 0"),
    ("high: 0.9", "high: 2", "high: 2", "arms.gkd.search.beta.high", "less than or equal to 1"),
    ("[0.0, 0.5]", "[0.0, 5.5]", "5.5", "arms.gkd.search.lmbda.choices.1", "found 5.5"),
    ("[0.0, 0.5]", "[0.0, '0.5']", "'0.5'", "arms.gkd.search.lmbda.choices.1", "found '0.5'"),
    ("[0.0, 0.5]", "[0, 0.5, 0.0]", "0.0]", "arms.gkd.search.lmbda.choices.2", "distinct"),
    ("[0.0, 0.5]", "[.nan]", ".nan", "arms.gkd.search.lmbda.choices.0", "finite"),
    ("[0.0, 0.5]", "[[1]]", "[1]", "arms.gkd.search.lmbda.choices.0", "found [1]"),
    ("[0.0, 0.5]", "[]", "choices", "arms.gkd.search.lmbda.choices", "at least one entry"),
    ("[0.0, 0.5]", "abc", "choices", "arms.gkd.search.lmbda.choices", "a list, found 'abc'"),
    ("categorical", "choice", "type", "arms.gkd.search.lmbda.type", "found 'choice'"),
    ("type: categorical, ", "", "lmbda", "arms.gkd.search.lmbda", "a mapping with type"),
    ("{type: float, low: 0.1, high: 0.9}", "0.5", "beta", "arms.gkd.search.beta", "found 0.5"),
    (
        "high: 0.9",
        "high: 0.9, step: 0.5",
        "high: 0.9",
        "arms.gkd.search.beta.high",
        "low plus a number of steps, such as 0.6",
    ),
    ("high: 0.9", "high: 0.9, step: 0", "step", "arms.gkd.search.beta.step", "greater than 0"),
    ("low: 1.0e-4", "low: 0", "low: 0,", "arms.sft.search.learning_rate.low", "log: true"),
    (
        "log: true",
        "log: true, step: 0.1",
        "step",
        "arms.sft.search.learning_rate.step",
        "no step together with log",
    ),
    # settings of a method
    (
        "{max_new_tokens: 8}",
        "{lambda: 1.0}",
        "lambda",
        "arms.gkd.settings.lambda",
        "did you mean 'lmbda'",
    ),
    (
        "{max_new_tokens: 8}",
        "{lr: 1.0}",
        "lr:",
        "arms.gkd.settings.lr",
        "did you mean 'learning_rate'",
    ),
    (
        "{max_new_tokens: 8}",
        "{lora.r: 8}",
        "lora.r",
        "arms.gkd.settings.lora.r",
        "the student has no lora",
    ),
    (
        "{max_new_tokens: 8}",
        "{teacher.dtype: int3}",
        "teacher.dtype",
        "arms.gkd.settings.teacher.dtype",
        "found 'int3'",
    ),
    (
        "{max_new_tokens: 8}",
        "{teacher.model: builtin/x}",
        "teacher.model",
        "arms.gkd.settings.teacher.model",
        "unknown built-in model 'x'",
    ),
    (
        "{max_new_tokens: 8}",
        "{teacher.init_kwargs.a: [1]}",
        "teacher.init",
        "arms.gkd.settings.teacher.init_kwargs.a",
        "found [1]",
    ),
    (
        "{max_new_tokens: 8}",
        "{extra: 5}",
        "extra",
        "arms.gkd.settings.extra",
        "expected a mapping, found 5",
    ),
    (
        "{max_new_tokens: 8}",
        "{beta: 0.5}",
        "beta: {type",
        "arms.gkd.search.beta",
        "in either settings or search, found both",
    ),
    (
        "  sft:\n",
        "  sft:\n    settings: {lmbda: 0.5}\n",
        "lmbda: 0.5",
        "arms.sft.settings.lmbda",
        "'lmbda' has no effect in an arm of method sft",
    ),
    (
        "  sft:\n",
        "  supervised_kd: {settings: {beta: 0.5}}\n  sft:\n",
        "beta: 0.5",
        "arms.supervised_kd.settings.beta",
        "has no effect in an arm of method supervised_kd",
    ),
    (
        "  sft:\n",
        "  seqkd: {search: {temperature: {type: float, low: 0.1, high: 1.0}}}\n  sft:\n",
        "temperature",
        "arms.seqkd.search.temperature",
        "has no effect in an arm of method seqkd",
    ),
    (
        "      lmbda:",
        "      engine: {type: categorical, choices: [trl]}\n      lmbda:",
        "engine",
        "arms.gkd.search.engine",
        "'engine' cannot be searched",
    ),
    (
        "  sft:\n",
        "  a: {method: gkd, settings: {lmbda: 0},"
        " search: {temperature: {type: float, low: 0.1, high: 1.0}}}\n  sft:\n",
        "temperature",
        "arms.a.search.temperature",
        "no effect at lmbda: 0",
    ),
    (
        "  sft:\n",
        "  a: {method: gkd, settings: {lmbda: 1.0},"
        " search: {seq_kd: {type: categorical, choices: [true, false]}}}\n  sft:\n",
        "seq_kd",
        "arms.a.search.seq_kd",
        "no effect at lmbda: 1",
    ),
    (
        "settings: {max_new_tokens: 8}",
        "settings: {max_new_tokens: 8, engine: trl-distillation}",
        "engine",
        "arms.gkd.settings.engine",
        "trains methods gkd at lmbda: 1 only, not gkd",
    ),
    (
        "  sft:\n",
        "  supervised_kd: {settings: {engine: trl-distillation}}\n  sft:\n",
        "engine",
        "arms.supervised_kd.settings.engine",
        "trains methods gkd at lmbda: 1 only, not supervised_kd",
    ),
    (
        "  learning_rate: 1.0e-3\narms:",
        "  learning_rate: 1.0e-3\n  engine: trl-distillation\narms:",
        "engine",
        "training.engine",
        "not gkd, sft, warm_start; write it at an arm",
    ),
    (
        "teacher: {model: builtin/adder-teacher}",
        "teacher: {model: builtin/adder-teacher, dtype: bfloat16, torch_dtype: float32}",
        "dtype",
        "teacher.dtype",
        "expected one, found both 'float32' and 'bfloat16'",
    ),
    (
        "teacher: {model: builtin/adder-teacher}",
        "teacher: {model: builtin/adder-teacher, quantization: int3}",
        "quantization",
        "teacher.quantization",
        "expected 'int8' or 'int4', found 'int3'",
    ),
    (
        "teacher: {model: builtin/adder-teacher}",
        "teacher: {model: builtin/adder-teacher, init_kwargs: {load_in_8bit: true}}",
        "load_in_8bit",
        "teacher.init_kwargs.load_in_8bit",
        "expected the key quantization next to model",
    ),
    (
        "teacher: {model: builtin/adder-teacher}",
        "teacher: {model: builtin/adder-teacher, init_kwargs: {_attn_implementation: eager}}",
        "_attn_implementation",
        "teacher.init_kwargs._attn_implementation",
        "expected the library's public name, attn_implementation",
    ),
    (
        "teacher: {model: builtin/adder-teacher}",
        "teacher: {model: builtin/adder-teacher, quantization: int8, random_init: true}",
        "quantization",
        "teacher.quantization",
        "no quantization of random weights",
    ),
    (
        "student: {model: builtin/adder-student}",
        "student: {model: builtin/adder-student, quantization: int4}",
        "quantization",
        "student.quantization",
        "expected lora next to it",
    ),
    (
        "student: {model: builtin/adder-student}",
        "student: {model: builtin/adder-student, compile: true}",
        "compile",
        "student.compile",
        "expected this key at the teacher",
    ),
    (
        "{max_new_tokens: 8}",
        "{teacher.quantization: int3}",
        "teacher.quantization",
        "arms.gkd.settings.teacher.quantization",
        "found 'int3'",
    ),
    (
        "{max_new_tokens: 8}",
        "{teacher.dtype: int8}",
        "teacher.dtype",
        "arms.gkd.settings.teacher.dtype",
        "the key teacher.quantization",
    ),
    # chat data
    ("limit: 24}", "limit: 24}\n  date: today", "date", "data.date", "such as 2024-07-26, found"),
    (
        "limit: 24}",
        "limit: 24}\n  assistant_turns: first",
        "assistant_turns",
        "data.assistant_turns",
        "'last' or 'all'",
    ),
    (
        "limit: 24}",
        "limit: 24}\n  chat_template_kwargs: {tools: []}",
        "tools",
        "data.chat_template_kwargs.tools",
        "an argument of the template's own, found 'tools'",
    ),
    (
        "limit: 24}",
        "limit: 24}\n  format: plain\n  chat_template_kwargs: {a: 1}",
        "chat_template_kwargs",
        "data.chat_template_kwargs",
        "has no effect with data.format: plain",
    ),
    (
        "{model: builtin/adder-student}",
        "{model: builtin/adder-student, chat_template_kwargs: {a: 1}}",
        "chat_template_kwargs",
        "student.chat_template_kwargs",
        "expected the student's arguments as data.chat_template_kwargs",
    ),
    (
        "{model: builtin/adder-teacher}",
        "{model: builtin/adder-teacher, chat_template_kwargs: {messages: 1}}",
        "messages",
        "teacher.chat_template_kwargs.messages",
        "an argument of the template's own, found 'messages'",
    ),
    (
        "limit: 24}\ntraining:",
        "limit: 24}\n  assistant_turns: all\ntraining:\n  engine: trl",
        "engine",
        "training.engine",
        "expected sweeper with data.assistant_turns: all",
    ),
    # names of files, data, models and suites
    ("adder-teacher", "nope", "model", "teacher.model", "expected one of adder-teacher"),
    ("path: builtin/addition", "path: builtin/sums", "path", "data.train.path", "of addition"),
    ("path: builtin/addition", "path: rows.jsonl", "path", "data.train.path", "no file 'rows"),
    ("selection.yaml", "nope.yaml", "selection:", "evaluation.selection", "no file 'nope.yaml'"),
    ("selection.yaml", "a" * 5000, "selection:", "evaluation.selection", "no file 'aaa"),
    ("selection.yaml", '"a\\0"', "selection:", "evaluation.selection", "no file"),
    ("selection.yaml", "7", "selection:", "evaluation.selection", "expected a string, found 7"),
    # what is not YAML
    ("seed: 3", "seed: 3\nseed: 4", "seed: 4", "", "found duplicate key"),
    ("seed: 3", "seed: [3", ": 4", "", "not valid YAML"),
    ("seed: 3", "seed: 2020-13-45", "2020", "", "not valid YAML: month must be in 1..12"),
    ("seed: 3", "seed: 1" + "0" * 5000, "1000", "", "not valid YAML: Exceeds the limit"),
    ("seed: 3", "seed: !!python/name:os.system x", "!!python", "", "not valid YAML"),
    ("seed: 3", "seed: \0", "\0", "", "not valid YAML: unacceptable character"),
]


@pytest.mark.parametrize(("old", "new", "mark", "path", "message"), ONE_MISTAKE)
def test_a_mistake_is_told_once_at_its_place(
    folder: Path, old: str, new: str, mark: str, path: str, message: str
) -> None:
    text = edit(old, new)
    (problem,) = problems(folder, text)
    assert problem.source == str(folder / "study.yaml")
    assert problem.path == path
    assert message in problem.message
    assert problem.line is not None
    assert problem.column is not None
    assert text.splitlines()[problem.line - 1][problem.column - 1 :].startswith(mark)


def test_a_message_reads_file_line_column_key_expected_and_found(folder: Path) -> None:
    text = edit("max_steps: 4", "max_steps: many")
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    line, column = place_of(text, "max_steps: many")
    assert str(caught.value) == (
        f"{folder / 'study.yaml'}:{line}:{column}: training.max_steps:"
        " expected a whole number, found 'many'"
    )


@pytest.mark.parametrize(
    ("content", "message", "place"),
    [
        (b"", "expected a mapping of keys to values, found nothing", (1, 1)),
        (b"# only a comment\n", "found nothing", (1, 1)),
        (b"- a\n- b\n", "found ['a', 'b']", (1, 1)),
        (b"abc", "found 'abc'", (1, 1)),
        (b"study: tiny\nseed: \xff", "not UTF-8 text: found the byte 0xff", (2, 7)),
        (b"\x7fELF\x02\x01\x01\x00\x00", "not valid YAML: unacceptable character", (1, 1)),
        (b"a: 1\n---\nb: 2\n", "not valid YAML", (2, 1)),
        (b"a: " + b"[" * 500 + b"]" * 500, "not valid YAML: nested too deeply", None),
    ],
)
def test_a_file_that_is_no_study_is_told_once(
    folder: Path, content: bytes, message: str, place: tuple[int, int] | None
) -> None:
    (problem,) = problems(folder, content)
    assert problem.source == str(folder / "study.yaml")
    assert message in problem.message
    assert place is None or (problem.line, problem.column) == place


def test_a_study_that_is_not_there_or_is_a_folder_is_told(folder: Path) -> None:
    for path, message in ((folder / "nope.yaml", "no such file"), (folder, "Is a directory")):
        with pytest.raises(ConfigError, match=re.escape(str(path))) as caught:
            load_study(path)
        assert message in str(caught.value)


def test_a_byte_order_mark_is_no_mistake(folder: Path) -> None:
    assert load(folder, "\ufeff" + STUDY).config.seed == 3


def test_a_key_that_is_a_list_is_told(folder: Path) -> None:
    found = problems(folder, edit("  sft:\n", "  ? [1, 2]\n  : {method: sft}\n  sft:\n"))
    assert any("expected a string, found (1, 2)" in problem.message for problem in found)


def test_an_arm_may_be_named_like_a_type(folder: Path) -> None:
    text = edit("  sft:\n", "  int: {method: sft, settings: {nope: 1}}\n  sft:\n")
    (problem,) = problems(folder, text)
    assert problem.path == "arms.int.settings.nope"


def test_a_huge_value_is_not_printed_whole(folder: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    (problem,) = problems(folder, bomb + edit("seed: 3", "seed: *i"))
    assert "aliases make more than 100,000 values" in problem.message
    assert (problem.line, problem.column) == (6, 4)
    (problem,) = problems(folder, edit("max_steps: 4", f"max_steps: {'9' * 400}"))
    assert len(problem.message) < 500


def test_all_mistakes_of_all_files_are_told_at_once(folder: Path) -> None:
    text = edit("max_steps: 4", "max_steps: no")
    text = edit("beta: {", "betta: {", text)
    text = edit("builtin/adder-teacher", "builtin/nope", text)
    text = edit("path: builtin/addition", "path: rows.csv", text)
    (folder / "selection.yaml").write_text("suite: s\ntasks: []\n", encoding="utf-8")
    (folder / "test.yaml").write_text(
        "suite: t\ntasks:\n  - {task: a, documents: [5, 2]}\n  - {task: b, weigth: 2.0}\n"
    )
    found = problems(folder, text, ["nonsense", "trials=0"])
    assert [(Path(problem.source).name, problem.path) for problem in found] == [
        ("--set nonsense", ""),
        ("--set trials=0", "trials"),
        ("study.yaml", "training.max_steps"),
        ("study.yaml", "arms.gkd.search.betta"),
        ("selection.yaml", "tasks"),
        ("test.yaml", "tasks.0.documents"),
        ("test.yaml", "tasks.1.weigth"),
        ("study.yaml", "data.train.path"),
        ("study.yaml", "teacher.model"),
    ]


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("suite: s\ntasks: [{task: a}, {task: a}]", "tasks.1.task", "each task once"),
        ("suite: s\ntasks: [{task: a, documents: [3, 3]}]", "tasks.0.documents", "first < end"),
        ("suite: s\ntasks: [{task: a, documents: ['0', 3]}]", "tasks.0.documents.0", "whole"),
        ("suite: s\ntasks: [{task: a, documents: [0]}]", "tasks.0.documents.1", "missing"),
        ("suite: s\ntasks: [{task: ''}]", "tasks.0.task", "expected some text"),
        ("suite: s\ntasks: [{task: a, weight: -1}]", "tasks.0.weight", "or equal to 0"),
        ("suite: s\ntasks: [{task: a, weight: 0}]", "tasks", "a weight above 0, found none"),
        ("suite: s\ntasks: [a]", "tasks.0", "expected a mapping, found 'a'"),
        ("suite: s\ntasks: [{task: a}]\naggregate: sum", "aggregate", "'mean' or 'minimum'"),
        (
            "suite: s\ntasks: [{task: a}]\napply_chat_template: 3",
            "apply_chat_template",
            "expected true or false or 'auto', found 3",
        ),
    ],
)
def test_a_mistake_in_a_suite_is_told_once(
    folder: Path, text: str, path: str, message: str
) -> None:
    file = folder / "selection.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_suite(file)
    (problem,) = caught.value.problems
    assert (problem.source, problem.path) == (str(file), path)
    assert message in problem.message
    assert problem.line is not None


# Prompts without answers


PROMPTS = edit("limit: 24}", "limit: 24, columns: {prompt: question}}").replace(
    "warm_start: {method: sft, max_steps: 5}\n", ""
)


def test_arms_that_need_answers_refuse_prompts_alone(folder: Path) -> None:
    found = problems(folder, PROMPTS)
    assert [problem.path for problem in found] == ["arms.gkd", "arms.sft"]
    assert all("data.train.columns names no completion" in p.message for p in found)


@pytest.mark.parametrize(
    "arm",
    [
        "{method: seqkd}",
        "{method: gkd, settings: {lmbda: 1.0}}",
        "{method: gkd, settings: {seq_kd: true}}",
        "{method: supervised_kd, settings: {seq_kd: true}}",
        "{method: gkd, search: {seq_kd: {type: categorical, choices: [true]}}}",
    ],
)
def test_arms_that_need_no_answers_accept_prompts_alone(folder: Path, arm: str) -> None:
    start, end = PROMPTS.index("arms:"), PROMPTS.index("evaluation:")
    study = load(folder, f"{PROMPTS[:start]}arms:\n  a: {arm}\n{PROMPTS[end:]}")
    assert list(study.config.arms) == ["a"]


def test_a_warm_start_on_answers_refuses_prompts_alone(folder: Path) -> None:
    start, end = PROMPTS.index("arms:"), PROMPTS.index("evaluation:")
    text = f"{PROMPTS[:start]}arms: {{seqkd: }}\n{PROMPTS[end:]}"
    load(folder, text)
    load(folder, text + "warm_start: {method: seqkd, max_steps: 5}\n")
    (problem,) = problems(folder, text + "warm_start: {method: sft, max_steps: 5}\n")
    assert problem.path == "warm_start.method"
    assert "names no completion" in problem.message


# The grid


def test_a_grid_needs_values_that_can_be_counted(folder: Path) -> None:
    found = problems(folder, STUDY + "sampler: grid\n")
    assert [p.path for p in found] == ["arms.gkd.search.beta", "arms.sft.search.learning_rate"]
    assert all("expected a step or a list of choices" in p.message for p in found)


@pytest.mark.parametrize(
    "space", ["int, low: 1, high: 2000000000", "float, low: 1.0, high: 2.0e9, step: 0.5"]
)
def test_a_grid_that_nobody_can_finish_is_refused(folder: Path, space: str) -> None:
    start, end = STUDY.index("arms:"), STUDY.index("evaluation:")
    name = "max_steps" if space.startswith("int") else "learning_rate"
    arms = f"arms: {{sft: {{search: {{{name}: {{type: {space}}}}}}}}}\nsampler: grid\n"
    (problem,) = problems(folder, STUDY[:start] + arms + STUDY[end:])
    assert problem.path == "arms.sft.search"
    assert "at most 10000 combinations" in problem.message


@pytest.mark.parametrize(
    ("override", "key", "message"),
    [
        ("training.engine=trl", "training.engine", "expected sweeper with compute.devices"),
        ("arms.sft.settings={engine: trl}", "arms.sft.settings.engine", "do not train as one"),
        (
            "teacher.init_kwargs={device_map: auto}",
            "teacher.init_kwargs.device_map",
            "expected none with compute.devices_per_trial: 2",
        ),
        (
            "arms.gkd.settings={teacher.init_kwargs.device_map: auto}",
            "arms.gkd.settings.teacher.init_kwargs.device_map",
            "a process loads the model onto its own device",
        ),
        (
            "teacher.quantization=int8",
            "teacher.quantization",
            "expected none with compute.shard_teacher",
        ),
    ],
)
def test_what_cannot_be_on_several_devices_is_refused(
    folder: Path, override: str, key: str, message: str
) -> None:
    assert load(folder, STUDY, [override]).config.compute.devices_per_trial == 1
    several = ["compute.devices_per_trial=2", "compute.shard_teacher=true"]
    [found] = problems(folder, STUDY, [override, *several])
    assert found.path == key
    assert message in found.message


@pytest.mark.parametrize(
    ("override", "key", "message"),
    [
        ("student={model: s, quantization: int8, lora: {r: 2}}", "student.quantization", "none"),
        ("training.optim=adafactor", "training.optim", "adamw_torch_fused, sgd with compute.shard"),
        ("training.fp16=true", "training.fp16", "expected false with compute.shard_student"),
        (
            "student.init_kwargs={quantization_config: {}}",
            "student.init_kwargs.quantization_config",
            "expected none with compute.shard_student",
        ),
        (
            "arms.gkd.search={optim: {type: categorical, choices: [sgd, paged_adamw_8bit]}}",
            "arms.gkd.search.optim.choices.1",
            "found 'paged_adamw_8bit'",
        ),
    ],
)
def test_a_student_that_cannot_be_divided_is_refused(
    folder: Path, override: str, key: str, message: str
) -> None:
    several = ["compute.devices_per_trial=2", "compute.shard_student=true"]
    load(folder, STUDY, [override, several[0]])
    load(folder, STUDY, several)
    [found] = problems(folder, STUDY, [override, *several])
    assert found.path == key
    assert message in found.message


@pytest.mark.parametrize(
    ("added", "key", "message"),
    [
        ("pruner: sha\n", "pruner.type", "'none', 'median', 'asha', 'hyperband' or 'wilcoxon'"),
        ("pruner: {type: asha, at: [0.5, 0.25]}\n", "pruner.at", "expected ascending numbers"),
        ("pruner: {type: asha, at: [0.5, 1.0]}\n", "pruner.at", "neither included"),
        (
            "pruner: {type: median, reduction_factor: 3}\n",
            "pruner.reduction_factor",
            "asha and hyp",
        ),
        ("pruner: {type: median, p_threshold: 0.1}\n", "pruner.p_threshold", "to wilcoxon"),
        ("objectives: [device_seconds]\n", "objectives", "expected score among"),
        ("objectives: [score, score]\n", "objectives", "each objective once"),
        ("objectives: [score, steps]\n", "objectives.1", "'device_seconds'"),
        ("objectives: [score, device_seconds]\npruner: asha\n", "pruner", "by one value"),
        (
            "objectives: [score, device_seconds]\nbudget: {patience: 3}\n",
            "budget.patience",
            "no single best trial",
        ),
        ("budget: {wall_time: soon}\n", "budget.wall_time", "30m"),
        ("budget: {hours: 3}\n", "budget.hours", "unknown key 'hours'"),
    ],
)
def test_what_ends_a_search_early_is_checked(
    folder: Path, added: str, key: str, message: str
) -> None:
    [found] = problems(folder, STUDY + added)
    assert found.path == key
    assert message in found.message
    assert found.line == (STUDY + added).count("\n")


@pytest.mark.parametrize(
    ("compute", "key", "message"),
    [
        ("{address: auto}", "compute.address", "no effect with executor: local"),
        ("{executor: ray, pin_cores: true}", "compute.pin_cores", "no effect with executor: ray"),
        ("{executor: ray, device: 'cuda:1'}", "compute.device", "Ray chooses the GPU"),
        ("{executor: ray, address: 'ray://x'}", "compute.address", "expected text that matches"),
        (
            "{threads_per_worker: 2, resources_per_trial: {cpu: 2}}",
            "compute.threads_per_worker",
            "expected one of",
        ),
        (
            "{device: cpu, resources_per_trial: {gpu: 0.5}}",
            "compute.resources_per_trial.gpu",
            "expected 0 with device: cpu",
        ),
        (
            "{resources_per_trial: {gpu: 2}}",
            "compute.resources_per_trial.gpu",
            "less than or equal to 1",
        ),
        (
            "{devices_per_trial: 2, resources_per_trial: {gpu: 0.5}}",
            "compute.resources_per_trial.gpu",
            "expected 1 with devices_per_trial: 2, found 0.5",
        ),
        ("{devices_per_trial: 2, device: mps}", "compute.device", "expected auto, cpu or cuda"),
        ("{devices_per_trial: 2, device: 'cuda:1'}", "compute.device", "found 'cuda:1'"),
        ("{shard_teacher: true}", "compute.shard_teacher", "no effect with devices_per_trial: 1"),
        ("{shard_student: true}", "compute.shard_student", "no effect with devices_per_trial: 1"),
        ("{devices_per_trial: 0}", "compute.devices_per_trial", "greater than or equal to 1"),
    ],
)
def test_what_trials_take_is_checked(folder: Path, compute: str, key: str, message: str) -> None:
    [found] = problems(folder, STUDY + f"compute: {compute}\n")
    assert found.path == key
    assert message in found.message


@pytest.mark.parametrize(
    ("written", "key", "mark", "message"),
    [
        ("collapse: halt\n", "collapse.action", "halt", "'warn' or 'stop', found 'halt'"),
        ("collapse: 3\n", "collapse.action", "3", "'warn' or 'stop', found 3"),
        ("collapse: true\n", "collapse.action", "True", "'warn' or 'stop'"),
        ("collapse: off\n", "collapse.action", "off", "'warn' or 'stop'"),
        ("collapse: {repetition: 50}\n", "collapse.repetition", "50", "less than or equal to 1"),
        ("collapse: {length_growth: 0.5}\n", "collapse.length_growth", "0.5", "greater than or"),
        ("collapse: {min_rollouts: 0}\n", "collapse.min_rollouts", "0", "greater than or equal"),
        ("collapse: {repetitions: 0.5}\n", "collapse.repetitions", "repetitions", "repetition"),
    ],
)
def test_collapse_is_checked(folder: Path, written: str, key: str, mark: str, message: str) -> None:
    text = STUDY + written
    [problem] = problems(folder, text)
    assert (problem.path, problem.line) == (key, place_of(text, "collapse:")[0])
    assert message in problem.message and mark in problem.message


def test_collapse_has_a_short_form(folder: Path) -> None:
    assert load(folder, STUDY + "collapse: stop\n").config.collapse == CollapseConfig(action="stop")
    assert load(folder).config.collapse.action == "warn"


def choice(*values: str) -> str:
    return f"{{type: categorical, choices: [{', '.join(values)}]}}"


RANGE = "{type: float, low: 0.1, high: 0.5}"
LORA = "student={model: builtin/adder-student, lora: {r: 2}}"
NO_WARM_START = "warm_start=null"


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        (
            ["arms.gkd={settings: {lmbda: 0.0, temperature: 0.9}}"],
            "arms.gkd.settings.temperature",
            "has no effect at lmbda: 0.0: leave it out",
        ),
        (
            ["arms.gkd={settings: {lmbda: 0.0, rollout_batch_size: 2}}"],
            "arms.gkd.settings.rollout_batch_size",
            "at lmbda: 0.0",
        ),
        (
            ["arms.gkd={settings: {lmbda: 1.0, seq_kd: true}}"],
            "arms.gkd.settings.seq_kd",
            "at lmbda: 1.0",
        ),
        (
            [f"arms.gkd={{settings: {{max_new_tokens: 8}}, search: {{lmbda: {choice('0.0')}}}}}"],
            "arms.gkd.settings.max_new_tokens",
            "at lmbda: 0.0",
        ),
        (
            [LORA, f"arms.sft={{search: {{lora.dropout: {RANGE}}}}}"],
            "arms.sft.search.lora.dropout",
            "at disable_dropout: true, the default",
        ),
        (
            ["training.lr_scheduler_type=constant", "training.warmup_ratio=0.1"],
            "training.warmup_ratio",
            "with lr_scheduler_type: constant",
        ),
        (
            [
                f"arms.sft={{settings: {{lr_scheduler_type: constant}}, search: {{warmup_ratio:"
                f" {RANGE}}}}}"
            ],
            "arms.sft.search.warmup_ratio",
            "with lr_scheduler_type: constant",
        ),
        (
            ["warm_start={max_steps: 2, lr_scheduler_type: constant, warmup_ratio: 0.5}"],
            "warm_start.warmup_ratio",
            "with lr_scheduler_type: constant",
        ),
        (
            ["training.optim=sgd", "training.adam_beta1=0.8"],
            "training.adam_beta1",
            "with optim: sgd",
        ),
        (["training.optim=adagrad", "training.adam_epsilon=0.1"], "training.adam_epsilon", "adag"),
        (["training.optim=lion_8bit", "training.adam_epsilon=0.1"], "training.adam_epsilon", "li"),
        (
            [
                *("training.optim=ademamix", "training.adam_beta2=0.9"),
                "training.extra={optim_args: beta2=0.8}",
            ],
            "training.adam_beta2",
            "with optim: ademamix",
        ),
        (
            [
                NO_WARM_START,
                "training.adam_beta2=0.9",
                f"arms={{sft: {{search: {{optim: {choice('sgd', 'rmsprop')}}}}}}}",
            ],
            "training.adam_beta2",
            "with optim: sgd or rmsprop",
        ),
        (
            ["training.engine=trl", "training.length_bucketing=false"],
            "training.length_bucketing",
            "with engine: trl",
        ),
        (
            ["arms.gkd.settings={engine: trl, rollout_batch_size: 2}"],
            "arms.gkd.settings.rollout_batch_size",
            "with engine: trl",
        ),
        (
            [NO_WARM_START, "arms={sft: {}}", "training.stock_normalization=true"],
            "training.stock_normalization",
            "in an arm of method sft",
        ),
        (["training.bf16=true", "training.fp16=true"], "training.fp16", "either bf16 or fp16"),
        (
            ["training.fp16=true", "arms.sft={settings: {bf16: true}}"],
            "arms.sft.settings.bf16",
            "either bf16 or fp16",
        ),
        (["training.fp16=true", "compute={device: cpu}"], "training.fp16", "needs a GPU"),
        (["student.dtype=float16"], "student.dtype", "for a student that is trained whole"),
    ],
)
def test_a_setting_that_does_nothing_is_refused(
    folder: Path, overrides: list[str], key: str, message: str
) -> None:
    [found] = problems(folder, STUDY, overrides)
    assert found.path == key and message in found.message


@pytest.mark.parametrize(
    "overrides",
    [
        # Each acts in some training.
        ["training.adam_beta2=0.9", f"arms.sft.search.optim={choice('sgd', 'adamw_torch')}"],
        ["training.adam_beta2=0.9", "training.optim=lion_8bit"],
        ["training.warmup_ratio=0.5", "arms.sft={settings: {lr_scheduler_type: constant}}"],
        ["training.warmup_ratio=0.0", "training.lr_scheduler_type=constant"],
        ["training.length_bucketing=false", "arms.sft={settings: {engine: trl}}"],
        ["training.bf16=true", "arms.sft={settings: {bf16: false, fp16: true}}"],
        ["training.stock_normalization=true"],
    ],
)
def test_a_setting_that_acts_somewhere_is_taken(folder: Path, overrides: list[str]) -> None:
    load(folder, STUDY, overrides)
