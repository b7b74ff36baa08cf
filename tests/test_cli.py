"""The command line, as a user meets it: messages and exit codes, no tracebacks."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import sweeper
from sweeper.analysis.findings import Preflight
from sweeper.cli import app, main
from sweeper.config.loading import load_study, schema
from sweeper.config.settings import METHODS, MethodSettings
from sweeper.foundation.errors import SweeperError
from sweeper.foundation.files import write_text_atomically
from sweeper.records.archive import NAME
from sweeper.records.layout import StudyPaths
from sweeper.reporting.console import show
from sweeper.reporting.markdown.report import write_report
from sweeper.reporting.report_data import ReportData
from sweeper.reporting.tables.check import check_view
from sweeper.study.manifest import open_manifest
from tests.support.confirmed_study import confirmed_study
from tests.support.tiny_studies import ROOT, adder_suite, write_yaml

QUICKSTART = str(ROOT / "studies" / "quickstart.yaml")
WriteStudy = Callable[..., Path]


class Result:
    """What a user sees of one command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Result]:
    """Runs ``sweeper`` in this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["sweeper", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capfd.readouterr()
        code = caught.value.code
        return Result(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


def is_message(result: Result) -> bool:
    """Whether the command failed with a message for people, on stderr alone."""
    return result.out == "" and result.err != "" and "Traceback" not in result.err


def test_the_installed_command_and_the_module_print_the_version() -> None:
    for start in ([Path(sys.executable).parent / "sweeper"], [sys.executable, "-m", "sweeper"]):
        done = subprocess.run([*start, "--version"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, f"sweeper {sweeper.__version__}\n")


def test_help_names_every_command() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for name in (
        *("init", "run", "check", "report", "compare"),
        *("export", "status", "ui", "schema"),
    ):
        assert name in result.output
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_a_command_that_does_not_exist_is_refused(command: Callable[..., Result]) -> None:
    result = command("rnu")
    assert result.code == 2
    assert is_message(result)


def test_init_says_what_it_wrote_and_what_is_missing(
    command: Callable[..., Result], tmp_path: Path
) -> None:
    missing = command("init", "--teacher", "a/b")
    assert missing.code == 2 and is_message(missing)
    assert [line.split(":")[0] for line in missing.err.splitlines()] == ["--student", "--data"]

    recipe = tmp_path / "gkd.yaml"
    recipe.write_text("training:\n  run_name: x\n  gkd: {teacher_model_name_or_path: a/b}\n")
    wrote = command("init", "--from-recipe", recipe, "--student", "a/c", "--data", "a/d")
    assert wrote.code == 0
    name = "training.run_name: not taken over: a study has a name of its own"
    assert wrote.err == f"{recipe}:2:3: {name}\n"
    assert wrote.out.startswith("Wrote study.yaml, study/selection.yaml, study/test.yaml\nFill in:")
    left = command("check", "study.yaml")
    assert left.code == 2 and is_message(left)
    placeholder = "tasks.0.task: expected a value of your own, found the placeholder 'FILL-IN-TASK'"
    suites = [f"study/{role}.yaml:6:5: {placeholder}" for role in ("selection", "test")]
    assert left.err.splitlines() == suites

    again = command("init", "--from-recipe", recipe)
    assert again.code == 2 and is_message(again)
    assert again.err.startswith("--output: expected a new file, but study.yaml exists")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "export: expected either --recipe or --model DIR"),
        (["--recipe", "--model", "d"], "export: expected either --recipe or --model DIR"),
        (["--recipe", "--merged"], "--merged: has no effect with --recipe"),
        (["--model", "d", "-o", "f"], "--output: has no effect with --model"),
    ],
)
def test_export_is_asked_for_one_thing(
    command: Callable[..., Result], options: list[str], message: str
) -> None:
    result = command("export", "study.yaml", *options)
    assert result.code == 2 and is_message(result)
    assert result.err == f"{message}\n"


@pytest.mark.parametrize("name", ["run", "check", "report", "status", "ui"])
def test_a_study_that_is_wrong_is_told_with_its_places(
    command: Callable[..., Result], write_study: WriteStudy, name: str
) -> None:
    path = write_study(seed="three", trials=0)
    result = command(name, path)
    assert result.code == 2
    assert is_message(result)
    lines = result.err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{path}:") for line in lines)
    assert any("seed: expected a whole number, found 'three'" in line for line in lines)


@pytest.mark.parametrize("name", ["run", "check", "report", "status", "ui"])
def test_a_file_that_is_not_there_is_told(command: Callable[..., Result], name: str) -> None:
    result = command(name, "nope.yaml")
    assert result.code == 2
    assert is_message(result)
    assert result.err == "nope.yaml: no such file\n"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("trials", "--set trials: expected KEY=VALUE"),
        ("trials=many", "--set trials=many: trials: expected a whole number, found 'many'"),
        ("trails=3", "--set trails=3: trails: unknown key 'trails'; did you mean 'trials'?"),
    ],
)
def test_an_override_that_is_wrong_names_the_option(
    command: Callable[..., Result], write_study: WriteStudy, option: str, message: str
) -> None:
    result = command("status", write_study(), "--set", option)
    assert result.code == 2
    assert is_message(result)
    assert result.err == f"{message}\n"


@pytest.mark.parametrize(
    "arguments", [["status"], ["report"], ["report", "--json"], ["ui"], ["export", "--recipe"]]
)
def test_a_study_that_was_not_run_has_nothing_to_show(
    command: Callable[..., Result], write_study: WriteStudy, tmp_path: Path, arguments: list[str]
) -> None:
    path = write_study()
    result = command(*arguments, path, "--runs", tmp_path / "elsewhere")
    assert result.code == 2
    assert is_message(result)
    assert "the study 'tiny' has not been run" in result.err
    assert str(tmp_path / "elsewhere" / "tiny") in result.err
    assert not (tmp_path / "elsewhere").exists(), "looking must not make anything"
    assert not (tmp_path / "reports").exists()


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of two reports."""
    root = tmp_path_factory.mktemp("reports")
    for seed in (1, 2):
        record = confirmed_study(seed, name=f"adder-{seed}", trials=6, seeds=1)
        write_report(ReportData.of(record), root / record.study)
    return [root / "adder-1", root / "adder-2"]


@pytest.mark.soak
def test_records_alone_are_reported_and_compared(
    command: Callable[..., Result], reported: list[Path], tmp_path: Path
) -> None:
    records = reported[0] / NAME
    told = command("report", "--records", records, "--json")
    assert (told.code, told.err) == (0, "")
    assert json.loads(told.out)["study"] == "adder-1"
    shown = command("report", "--records", records)
    assert shown.code == 0 and "Report: reports/adder-1/report.md" in shown.out
    written = (tmp_path / "reports" / "adder-1" / "report.md").read_bytes()
    assert written == (reported[0] / "report.md").read_bytes()
    compared = command("compare", records, reported[1])
    assert (compared.code, compared.err) == (0, "")
    assert compared.out.startswith("2 studies that differ only in their seed.")
    found = json.loads(command("compare", *reported, "--json").out)
    assert [study["study"] for study in found["studies"]] == ["adder-1", "adder-2"]


def test_what_cannot_be_reported_or_compared_is_one_message(
    command: Callable[..., Result], reported: list[Path], write_study: WriteStudy, tmp_path: Path
) -> None:
    (tmp_path / "foreign.json.gz").write_bytes(b"text")
    (tmp_path / "empty").mkdir()
    records = reported[0] / NAME
    study = write_study()
    cases = [
        (["report"], "--records: expected either a study file or a report's records"),
        (["report", study, "--records", records], "--records: expected either a study file"),
        (["report", "--records", "foreign.json.gz"], "foreign.json.gz: expected records.json.gz"),
        (["compare", records], f"{records}: expected two studies or more to compare, found 1"),
        (["compare", records, records], f"{records}: expected another study, found the one of"),
        (["compare", records, "empty"], "empty: expected the folder of a report or of a study"),
        (["compare", records, "nope.yaml"], "nope.yaml: no such file"),
        (["compare", records, study], f"{study}: the study 'tiny' has not been run"),
    ]
    for arguments, message in cases:
        result = command(*arguments)
        assert result.code == 2 and is_message(result)
        assert result.err.startswith(message) and result.err.count("\n") == 1, result.err
    assert not (tmp_path / "reports").exists()


def test_the_ui_refuses_a_port_that_is_taken(
    command: Callable[..., Result], write_study: WriteStudy, tmp_path: Path
) -> None:
    path = write_study()
    open_manifest(load_study(path), StudyPaths(tmp_path / "runs", "tiny"), ["sweeper"], 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = command("ui", path, "--port", port)
    assert result.code == 2
    assert is_message(result)
    assert result.err.startswith(f"--port: expected a free port, but something listens on {port}")


def test_a_study_that_a_server_records_is_shown_there(
    command: Callable[..., Result], write_study: WriteStudy
) -> None:
    uri = "http://me:pw@mlflow.example:5000"
    result = command("ui", write_study(), "--set", f"tracking.uri={uri}")
    assert (result.code, result.err) == (0, "")
    assert result.out == ("tiny is recorded by the server http://me:***@mlflow.example:5000\n")


def test_a_tracking_server_that_does_not_answer_is_one_message(
    command: Callable[..., Result], write_study: WriteStudy
) -> None:
    # Port 9 discards; nothing listens there.
    result = command("run", write_study(), "--set", "tracking.uri=http://127.0.0.1:9")
    assert result.code == 1
    [message] = result.err.splitlines()
    assert message.startswith("error: MLflow cannot use http://127.0.0.1:9: ")
    assert "Traceback" not in result.out


def test_an_error_of_ours_is_one_line_and_no_traceback(
    command: Callable[..., Result], write_study: WriteStudy, tmp_path: Path
) -> None:
    assert SweeperError("x").exit_code == 1
    # A study of the same name, started differently.
    path = write_study()
    paths = StudyPaths(tmp_path / "runs", "tiny")
    open_manifest(load_study(path), paths, ["sweeper"], 1)
    write_text_atomically(paths.trial("sft", 0).spec, "{}")
    result = command("run", path, "--set", "seed=99")
    assert result.code == 2
    assert is_message(result)
    assert "seed: was 3, now 99" in result.err


@pytest.mark.slow
def test_check_says_what_a_study_can_show(
    command: Callable[..., Result], write_study: WriteStudy, tmp_path: Path
) -> None:
    path = write_study(confirm={"seeds": 4}, margin=0.01)
    result = command("check", path, "--json")
    assert (result.code, result.err) == (0, "")
    printed = json.loads(result.out)
    states = {finding["what"]: finding["state"] for finding in printed["findings"]}
    assert states == {
        "study file": "ok",
        "precision": "ok",
        "vocabulary": "ok",
        "teacher's size": "ok",
        "chat template": "ok",
        "end tokens": "ok",
        "training data": "ok",
        "selection suite": "ok",
        "test suite": "ok",
        "overlap": "ok",
        "max_length": "ok",
        "max_new_tokens": "warning",
        "settings": "warning",
        "dropout": "ok",
        "adapter": "ok",
        "memory": "ok",
        "confirmation": "ok",
        "smallest difference": "ok",
        "margin": "warning",
        "time": "ok",
    }
    assert printed["estimate"] is None, "nothing was measured"
    design = printed["design"]
    assert (design["documents"], design["seeds"], design["comparisons"]) == (8, 4, 1)
    assert [row["seeds"] for row in design["rows"]] == [3, 4, 5, 10]
    sizes = [row["differences"][0] for row in design["rows"]]
    assert sizes == sorted(sizes, reverse=True)
    assert not (tmp_path / "runs").exists(), "checking must not begin the study"
    out = StringIO()
    show(check_view(Preflight.model_validate(printed)), Console(width=80, file=out))
    shown = " ".join(out.getvalue().split())
    assert "! margin 0.01 is smaller than what the design can show" in shown
    assert "assumed, as nothing has been measured" in shown


@pytest.mark.slow
def test_check_counts_the_documents_of_a_suite_that_names_none(
    command: Callable[..., Result], write_study: WriteStudy, tmp_path: Path
) -> None:
    path = write_study(confirm={"seeds": 3})
    everything = adder_suite("test", 0, 1)
    del everything["tasks"][0]["documents"]
    write_yaml(tmp_path / "test.yaml", {**everything, "task_paths": ["tasks"]})
    task = (ROOT / "eval_suites" / "tasks" / "addition.yaml").read_text(encoding="utf-8")
    data = ROOT / "eval_suites" / "data" / "addition.jsonl"
    rows = data.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "addition.yaml").write_text(
        task.replace("../data/addition.jsonl", "rows.jsonl"), encoding="utf-8"
    )
    (tmp_path / "tasks" / "rows.jsonl").write_text("".join(rows[30:47]), encoding="utf-8")
    result = command("check", path, "--json")
    assert (result.code, json.loads(result.out)["design"]["documents"]) == (0, 17)
    (tmp_path / "tasks" / "rows.jsonl").write_text("".join(rows[5:47]), encoding="utf-8")
    shared = command("check", path)
    assert shared.code == 2
    assert "✗" in shared.out and "prompts of its own" in " ".join(shared.out.split())


def test_the_schema_is_json_and_describes_every_key() -> None:
    result = CliRunner().invoke(app, ["schema"])
    assert result.exit_code == 0
    printed = json.loads(result.output)
    assert printed == schema()
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for name, definition in [("study", printed), *printed["$defs"].items()]:
        assert definition["additionalProperties"] is False, name
        for key, field in definition["properties"].items():
            # A reference has the description of what it refers to.
            described = "description" in field or "$ref" in field or key == "type"
            assert described, f"{name}.{key} has no description"
    assert set(printed["$defs"]["TrainingConfig"]["properties"]) < set(MethodSettings.model_fields)


def test_the_schema_knows_the_short_forms() -> None:
    printed = schema()
    assert {"enum": ["tpe", "random", "grid", "gp"]} in printed["properties"]["sampler"]["anyOf"]
    assert printed["$defs"]["ArmConfig"]["required"] == ["method"]
    assert "required" not in printed["$defs"]["NamedArmConfig"]
    assert set(printed["properties"]["arms"]["properties"]) == set(METHODS)


def test_the_schema_accepts_the_quickstart_and_refuses_what_is_misspelt() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    from ruamel.yaml import YAML

    study: dict[str, Any] = YAML(typ="safe", pure=True).load(Path(QUICKSTART))
    validator = jsonschema.Draft202012Validator(schema())
    arms = {"seqkd": None, "mine": {"method": "gkd"}}
    for right in (study, {**study, "sampler": "grid"}, {**study, "arms": arms}):
        assert list(validator.iter_errors(right)) == []
    for change in ({"sed": 1}, {"sampler": "gird"}, {"arms": {"mine": {}}}, {"arms": {"a b": {}}}):
        assert list(validator.iter_errors({**study, **change}))
