"""The command line. Nothing heavy is imported before the arguments are parsed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper import __version__
from sweeper.config.names import DEFAULT_RUNS
from sweeper.foundation.errors import ConfigError, SweeperError

if TYPE_CHECKING:
    from rich.console import Console

    from sweeper.config.loading import LoadedStudy
    from sweeper.records.layout import StudyPaths
    from sweeper.records.study_record import StudyRecord

app = typer.Typer(
    help="Sweep on-policy distillation (GKD) and compare it fairly with offline distillation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="The study file (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key, for example training.max_steps=20."
    ),
]
Runs = Annotated[Path, typer.Option("--runs", help="Directory of all studies.")]
Reports = Annotated[Path, typer.Option("--reports", help="Directory of all reports.")]
CacheDir = Annotated[Path | None, typer.Option(help="Cache of warm starts and teacher outputs.")]


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        _print(f"sweeper {__version__}")
        raise typer.Exit


@app.command()
def init(
    teacher: Annotated[
        str | None, typer.Option(help="The teacher: a hub id, a folder, or builtin/NAME.")
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="The student, named like the teacher.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Prompts with answers: a json, jsonl, parquet or csv file, or a hub id."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option("--from-recipe", help="An Oumi training configuration for GKD (YAML)."),
    ] = None,
    selection: Annotated[
        Path | None, typer.Option(help="The selection suite; by default made of held-out data.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="The test suite; same default.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The new study file.")] = Path(
        "study.yaml"
    ),
) -> None:
    """Write a first study: from a teacher, a student and data, or from a recipe."""
    from sweeper.commands.init.draft import Request, write_draft
    from sweeper.commands.init.draft_study import draft_from_recipe, draft_study
    from sweeper.foundation.errors import Problem

    request = Request(output, teacher, student, data, selection, test)
    if recipe is not None:
        draft = draft_from_recipe(recipe, request)
        origin = f"From the recipe {recipe}, by sweeper init."
    else:
        named = {"--teacher": teacher, "--student": student, "--data": data}
        problems = [
            Problem(source=option, message="required, but missing (or use --from-recipe)")
            for option, value in named.items()
            if value is None
        ]
        if problems:
            raise ConfigError(problems)
        draft = draft_study(request)
        origin = f"Distils {teacher} into {student}; by sweeper init."
    written = write_draft(draft, output, origin)
    for note in draft.notes:
        _print(str(note), err=True)
    _print(f"Wrote {', '.join(map(str, written))}")
    for missing in draft.fill_in:
        _print(f"Fill in: {missing}")
    _print(f"Then: sweeper check {output}; sweeper run {output}")


@app.command()
def run(
    study_file: StudyFile,
    overrides: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
    reports: Reports = Path("reports"),
    cache_dir: CacheDir = None,
) -> None:
    """Run a study, or resume it, and report the comparison."""
    from sweeper.commands import run

    study = _load(study_file, overrides)
    code = run.run_study(study, runs=runs, reports=reports, cache=cache_dir, out=_console())
    raise typer.Exit(code)


@app.command()
def check(
    study_file: StudyFile,
    overrides: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
    reports: Reports = Path("reports"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Compare the models, and run a few steps of each arm.")
    ] = False,
    cache_dir: CacheDir = None,
) -> None:
    """Check a study before training: data, models, memory, statistical power."""
    from sweeper.commands.check.run_checks import check as check_study
    from sweeper.reporting.console import show
    from sweeper.reporting.tables.check import check_view

    study = _load(study_file, overrides)
    progress = _console(stderr=True)
    try:
        preflight = check_study(
            study, runs, progress, reports=reports, probing=probe, cache=cache_dir
        )
    except KeyboardInterrupt:
        _print("Stopped. No study was started.", err=True)
        raise typer.Exit(130) from None
    if as_json:
        _print(json.dumps(preflight.model_dump(mode="json"), indent=2))
    else:
        show(check_view(preflight), _console())
    raise typer.Exit(2 if preflight.errors else 0)


@app.command()
def report(
    study_file: Annotated[
        Path | None, typer.Argument(metavar="[STUDY]", help="The study file (YAML).")
    ] = None,
    overrides: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
    reports: Reports = Path("reports"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
    records: Annotated[
        Path | None,
        typer.Option("--records", metavar="FILE", help="Records of a report, instead of a study."),
    ] = None,
) -> None:
    """Report a study from its records, without running it."""
    from sweeper.foundation import disk
    from sweeper.reporting.json_output import study_json
    from sweeper.reporting.markdown.report import write_report
    from sweeper.reporting.report_data import ReportData
    from sweeper.reporting.summary import show_study

    page = ReportData.of(_recorded(study_file, overrides, runs, records))
    if as_json:
        _print(json.dumps(study_json(page), indent=2))
        return
    console = _console()
    show_study(page, console)
    with disk.explained(reports):
        written = write_report(page, reports / page.record.study)
    console.print(f"Report: {written[0]}", soft_wrap=True)


@app.command()
def compare(
    named: Annotated[
        list[Path],
        typer.Argument(
            metavar="STUDY...",
            help="Study files, folders of studies or reports, or records.json.gz.",
        ),
    ],
    runs: Runs = DEFAULT_RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare studies with each other, or the same study with several seeds."""
    from sweeper.analysis.across_studies import compare_studies
    from sweeper.reporting.console import show
    from sweeper.reporting.tables.studies import StudiesView, studies_json
    from sweeper.study.results import find_records

    comparison = compare_studies(find_records(named, runs))
    if as_json:
        _print(json.dumps(studies_json(comparison), indent=2))
        return
    show(StudiesView(comparison), _console())


@app.command()
def status(study_file: StudyFile, overrides: Overrides = None, runs: Runs = DEFAULT_RUNS) -> None:
    """List a study's trials."""
    from sweeper.reporting.console import show
    from sweeper.reporting.tables.trials import StatusView

    show(StatusView(_read(_load(study_file, overrides), runs)), _console())


@app.command()
def export(
    study_file: StudyFile,
    overrides: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
    as_recipe: Annotated[
        bool, typer.Option("--recipe", help="Write an Oumi training configuration.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File of the recipe; by default it is printed."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Train the winner again and write it to this folder.")
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Merge an adapter into the weights below it.")
    ] = False,
    arm: Annotated[
        str | None, typer.Option(help="Export the best trial of this arm, not the winner.")
    ] = None,
    cache_dir: CacheDir = None,
) -> None:
    """Export a study's winner as a recipe, or as a model with its card."""
    from sweeper.commands.export.model import export_model
    from sweeper.commands.export.recipe import export_recipe
    from sweeper.foundation.errors import Problem

    if as_recipe == (model is not None):
        message = "expected either --recipe or --model DIR"
        raise ConfigError([Problem(source="export", message=message)])
    for option, belongs in (("--output", output and model), ("--merged", merged and as_recipe)):
        if belongs:
            message = f"has no effect with {'--model' if model else '--recipe'}"
            raise ConfigError([Problem(source=option, message=message)])
    study = _load(study_file, overrides)
    record = _read(study, runs)
    if model is None:
        text, unsaid = export_recipe(study, record, arm, output)
        for line in unsaid:
            _print(line, err=True)
        _print(text if output is None else f"Wrote {output}", end="\n" if output else "")
        return
    paths, out = _paths(study, runs), _console()
    code = export_model(
        study, paths, record, model, arm=arm, merged=merged, cache=cache_dir, out=out
    )
    raise typer.Exit(code)


@app.command()
def ui(
    study_file: StudyFile,
    overrides: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open the MLflow UI with the study's store, on 127.0.0.1."""
    import os

    from sweeper.commands.check.places import check_drivers
    from sweeper.commands.run import tracking_store
    from sweeper.foundation.databases import is_server
    from sweeper.foundation.errors import Problem
    from sweeper.foundation.secrets import redact
    from sweeper.tracking.ui import experiment_url, is_free, ui_command, ui_environment

    study = _load(study_file, overrides)
    check_drivers(study)
    place = tracking_store(study.config.tracking, _paths(study, runs))
    if is_server(place.uri):
        _print(f"{study.config.study} is recorded by the server {redact(place.uri)}")
        return
    _read(study, runs)
    if not is_free(port):
        message = f"expected a free port, but something listens on {port} of 127.0.0.1 already"
        raise ConfigError([Problem(source="--port", message=message)])
    url = experiment_url(place.uri, place.experiment, study.config.study, port)
    _print(f"{study.config.study}: {url}\nStop with Ctrl-C.")
    command = ui_command(place.uri, place.artifacts, port)
    os.execvpe(command[0], command, {**os.environ, **ui_environment(place.uri)})


@app.command()
def schema() -> None:
    """Print the JSON Schema of a study file, for editors."""
    from sweeper.config.loading import schema as study_schema

    _print(json.dumps(study_schema(), indent=2))


def main() -> None:
    """Run the command line; print an expected error as a message, not as a traceback."""
    from sweeper.reporting.text.terminal_escape import readable

    for stream in (sys.stdout, sys.stderr):
        readable(stream)
    try:
        try:
            app()
        except OSError as error:
            raise _told(error) from error
    except SweeperError as error:
        from sweeper.foundation.secrets import redact_credentials, secrets_of_environment
        from sweeper.reporting.text.terminal_escape import visible

        text = f"error: {error}" if error.exit_code == 1 else str(error)
        _print(visible(redact_credentials(text, secrets_of_environment())), err=True)
        sys.exit(error.exit_code)


def _told(error: OSError) -> Exception:
    """Return the message about a place that cannot be used, or ``error`` itself."""
    from sweeper.foundation import disk
    from sweeper.foundation.errors import FullDiskError
    from sweeper.foundation.places import place_error

    if disk.is_full(error):
        return FullDiskError(disk.explain(error))
    return place_error(error) or error


def _print(text: str, *, err: bool = False, end: str = "\n") -> None:
    # Not by typer, which takes a terminal that has ASCII only for one that has UTF-8.
    print(text, file=sys.stderr if err else sys.stdout, end=end, flush=True)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(markup=False, emoji=False, stderr=stderr)


def _load(path: Path, overrides: list[str] | None) -> LoadedStudy:
    from sweeper.config.loading import load_study

    return load_study(path, overrides or [])


def _paths(study: LoadedStudy, runs: Path) -> StudyPaths:
    from sweeper.records.layout import StudyPaths

    return StudyPaths(runs, study.config.study)


def _recorded(
    study_file: Path | None, overrides: list[str] | None, runs: Path, records: Path | None
) -> StudyRecord:
    from sweeper.foundation.errors import Problem
    from sweeper.records.archive import read_records

    if records is not None and study_file is None and not overrides:
        return read_records(records)
    if study_file is None or records is not None:
        message = "expected either a study file or a report's records"
        raise ConfigError([Problem(source="--records", message=message)])
    return _read(_load(study_file, overrides), runs)


def _read(study: LoadedStudy, runs: Path) -> StudyRecord:
    from sweeper.study.results import record_of_study

    return record_of_study(_paths(study, runs), study.path)
