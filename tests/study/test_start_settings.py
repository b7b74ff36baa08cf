"""What arms start with: read once from the study file and from earlier studies, or refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.commands.check.starts import start_findings
from sweeper.config.base import Scalar
from sweeper.config.loading import LoadedStudy, load_study, load_suite
from sweeper.config.suite import SuiteTask
from sweeper.foundation.errors import ConfigError, Problem, StudyChangedError
from sweeper.foundation.files import write_text_atomically
from sweeper.records import EnqueuedSettings, Outcome
from sweeper.records.archive import write_records
from sweeper.records.layout import StudyPaths
from sweeper.records.study_record import ArmRecord, TrialRecord
from sweeper.study.manifest import StudyManifest, open_manifest, suite_spec
from sweeper.study.start_settings import start_settings
from tests.support.example_study import arm, completed, failed, study, trial
from tests.support.memory_tracker import MemoryTracker
from tests.support.tiny_studies import adder_study, adder_suite, write_yaml
from tests.support.writing_executor import WritingExecutor, go_on

SEARCH: dict[str, Any] = {
    "lmbda": {"type": "float", "low": 0.0, "high": 1.0},
    "beta": {"type": "categorical", "choices": [0.0, 0.5, 1.0]},
    "temperature": {"type": "float", "low": 0.3, "high": 1.0},
}
RATE = {"learning_rate": {"type": "categorical", "choices": [1e-3, 1e-2]}}
HASH = "5a1e" * 16


def earlier(number: int, score: float | None, **params: Scalar) -> TrialRecord:
    outcome: Outcome = failed() if score is None else completed(score)
    made = trial(number, outcome, **params)
    return made.model_copy(update={"settings": made.settings | {"temperature": 0.9, "extra": {}}})


TRIALS = [
    earlier(0, 0.3, lmbda=0.1, beta=0.0),
    earlier(1, 0.7, lmbda=0.2, beta=0.5),
    earlier(2, 0.7, lmbda=0.2, beta=0.5),
    earlier(3, None, lmbda=0.3, beta=0.5),
    earlier(4, 0.9, lmbda=0.0, beta=1.0),
    earlier(5, 0.5, lmbda=1.0, beta=0.5),
]


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., LoadedStudy]:
    """Writes a study and the pilot that it may start from; loads the study."""
    for role, first in (("selection", 0), ("test", 50)):
        write_yaml(tmp_path / f"{role}.yaml", adder_suite(role, first, first + 8))

    def load(
        start_with: Any,
        *,
        pilot: list[ArmRecord] | None = None,
        search: dict[str, Any] = SEARCH,
        settings: dict[str, Any] | None = None,
        higher_is_better: bool = True,
        selection: tuple[SuiteTask, ...] = (),
        **changes: Any,
    ) -> LoadedStudy:
        arms = [arm("gkd", TRIALS)] if pilot is None else pilot
        record = study(arms, higher_is_better=higher_is_better)
        record = record.model_copy(update={"study": "pilot", "selection": selection})
        write_records(record, tmp_path / "pilot" / "records.json.gz")
        gkd = {"settings": settings or {}, "search": search, "start_with": start_with}
        arms_now = {"gkd": gkd, "sft": {"search": RATE}}
        values = adder_study(trials=6, arms=arms_now, **changes)
        return load_study(write_yaml(tmp_path / "study.yaml", values))

    (tmp_path / "pilot").mkdir()
    return load


def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths(tmp_path / "runs", "tiny")


def best(tmp_path: Path, loaded: LoadedStudy) -> list[EnqueuedSettings]:
    return list(start_settings(loaded, paths(tmp_path))["gkd"])


def refused(tmp_path: Path, loaded: LoadedStudy) -> Problem:
    with pytest.raises(ConfigError) as caught:
        start_settings(loaded, paths(tmp_path))
    [problem] = caught.value.problems
    assert caught.value.exit_code == 2
    assert problem.source.endswith("study.yaml") and problem.line is not None
    return problem


Load = Callable[..., LoadedStudy]


def test_the_study_file_gives_settings(tmp_path: Path, load: Load) -> None:
    loaded = load([{"lmbda": 0.5}, {"beta": 0.5}])
    assert best(tmp_path, loaded) == [
        EnqueuedSettings(settings={"lmbda": 0.5}),
        EnqueuedSettings(settings={"beta": 0.5}),
    ]


@pytest.mark.parametrize("named", ["pilot", "pilot/records.json.gz"])
def test_the_best_of_an_earlier_study_is_taken(tmp_path: Path, load: Load, named: str) -> None:
    first, second, third = best(tmp_path, load({"study": named, "best": 3}))
    # At lmbda 0 no temperature has an effect; #2 repeats #1; what was fixed there is searched here.
    assert first == EnqueuedSettings(
        settings={"lmbda": 0.0, "beta": 1.0},
        study="pilot", arm="gkd", trial=4, score=0.9, suite_hash=HASH,
    )  # fmt: skip
    assert second.settings == {"lmbda": 0.2, "beta": 0.5, "temperature": 0.9}
    assert (second.trial, third.trial) == (1, 5)


def test_the_best_is_lowest_where_lower_is_better(tmp_path: Path, load: Load) -> None:
    loaded = load({"study": "pilot"}, higher_is_better=False)
    assert [start.trial for start in best(tmp_path, loaded)] == [0]


def test_an_arm_of_another_name_and_settings_of_the_file_next_to_it(
    tmp_path: Path, load: Load
) -> None:
    pilot = [arm("mine", TRIALS, method="gkd")]
    entries = [{"lmbda": 0.4, "beta": 0.5}, {"study": "pilot", "arm": "mine"}]
    starts = best(tmp_path, load(entries, pilot=pilot))
    assert [start.source() for start in starts] == ["the study file", "pilot mine #4"]


def test_what_only_the_earlier_study_searched_must_be_the_same(tmp_path: Path, load: Load) -> None:
    search = {"lmbda": SEARCH["lmbda"], "temperature": SEARCH["temperature"]}
    entry = {"study": "pilot", "best": 1}
    starts = best(tmp_path, load(entry, search=search, settings={"beta": 1.0}))
    assert starts[0].settings == {"lmbda": 0.0}
    problem = refused(tmp_path, load(entry, search=search, settings={"beta": 0.5}))
    assert "trial #4 of arm gkd of pilot has beta: 1.0, and this arm 0.5" in problem.message
    assert "search it, or fix it to the same value" in problem.message


FULL = [arm("gkd", TRIALS)]
ADDED = [*TRIALS, earlier(6, 0.95, lmbda=0.7, beta=0.25)]
TWO_SUITES = [
    *TRIALS[:5],
    TRIALS[5].model_copy(
        update={
            "outcome": Outcome.model_validate(
                completed(0.5).model_dump()
                | {"scores": completed(0.5).model_dump()["scores"] | {"suite_hash": "other"}}
            )
        }
    ),
]


@pytest.mark.parametrize(
    ("entry", "options", "key", "message"),
    [
        ({"study": "nowhere"}, {}, "study", "found no 'nowhere' in the working directory and"),
        ({"study": "selection.yaml"}, {}, "", "found one that cannot be read"),
        ({"study": "study.yaml"}, {}, "", "the study 'tiny' has not been run"),
        ({"study": "pilot", "arm": "x"}, {}, "arm", "an arm of pilot as `arm`, one of gkd; found"),
        (
            {"study": "pilot"},
            {"pilot": [arm("gkd", TRIALS, method="supervised_kd")]},
            "arm",
            "expected an arm of method gkd, as this one; gkd of pilot has supervised_kd",
        ),
        (
            {"study": "pilot"},
            {"pilot": [arm("gkd", TRIALS, budget=9)]},
            "study",
            "expected an arm whose search is finished, found 6 of 9 trials of gkd of pilot",
        ),
        ({"study": "pilot", "best": 5}, {}, "best", "at most 4, the completed trials of arm gkd"),
        (
            {"study": "pilot"},
            {"pilot": [arm("gkd", [TRIALS[3]])]},
            "best",
            "expected at most 0, the completed trials",
        ),
        (
            {"study": "pilot"},
            {"pilot": [arm("gkd", ADDED)]},
            "",
            "trial #6 of arm gkd of pilot does not fit in beta: expected one of 0.0, 0.5, 1.0",
        ),
        (
            {"study": "pilot"},
            {"pilot": [arm("gkd", TWO_SUITES)]},
            "",
            "expected trials with one selection suite, found several",
        ),
        ([{"lmbda": n / 10} for n in range(7)], {}, "", "at most 6 settings, one for each trial"),
        (
            [{"lmbda": n / 10} for n in range(3)],
            {"budget": {"trials": 4}},
            "",
            "at most 2 settings, one for each trial",
        ),
        (
            [{"study": "pilot"}, {"lmbda": 0.0, "beta": 1.0}],
            {},
            "1",
            "the study file has those of pilot gkd #4 again; remove one",
        ),
        (
            [{"lmbda": 0.5, "beta": 0.5}],
            {"sampler": "grid", "search": {**SEARCH, "lmbda": SEARCH["lmbda"] | {"step": 0.5},
             "temperature": SEARCH["temperature"] | {"step": 0.7}}},
            "0",
            "expected temperature too, because the sampler is grid",
        ),
    ],
)  # fmt: skip
def test_what_is_not_certain_is_refused(
    tmp_path: Path, load: Load, entry: Any, options: dict[str, Any], key: str, message: str
) -> None:
    problem = refused(tmp_path, load(entry, **options))
    assert message in problem.message
    assert problem.path == ".".join(filter(None, ["arms.gkd.start_with", key]))


def test_a_stopped_search_is_finished(tmp_path: Path, load: Load) -> None:
    stopped = arm("gkd", TRIALS, budget=9).model_copy(update={"stopped": "patience"})
    assert best(tmp_path, load({"study": "pilot"}, pilot=[stopped]))[0].trial == 4


TESTED: dict[str, Any] = {"task": "addition", "documents": [50, 58]}
"""What the study's test suite has."""


@pytest.mark.parametrize(
    ("selection", "shared"),
    [
        ([TESTED], "50 to 57"),
        ([{**TESTED, "metric": "exact_match", "num_fewshot": 2, "weight": 0.5}], "50 to 57"),
        ([{"task": "addition"}], "50 to 57"),
        ([{"task": "addition", "limit": 51}], "50 to 50"),
        ([{"task": "addition", "limit": 50}], None),
        ([{"task": "addition", "documents": [57, 90]}], "57 to 57"),
        ([{"task": "addition", "documents": [58, 90]}], None),
        ([{**TESTED, "task": "another"}, {"task": "addition", "documents": [0, 8]}], None),
        ([{**TESTED, "weight": 0.0}, {"task": "another"}], None),
    ],
)
@pytest.mark.parametrize("at", ["its selection", "what it started with"])
def test_a_study_selected_on_documents_of_this_test_suite_is_refused(
    tmp_path: Path, load: Load, selection: list[dict[str, Any]], shared: str | None, at: str
) -> None:
    tasks = tuple(SuiteTask.model_validate(task) for task in selection)
    trials, own = [TRIALS[1]], tasks
    if at == "what it started with":
        before = EnqueuedSettings(settings={"lmbda": 0.2}, study="first", tasks=tasks)
        trials = [earlier(0, None, lmbda=0.2, beta=0.5), *trials]
        trials[0] = trials[0].model_copy(update={"enqueued": before})
        own = (SuiteTask(task="addition", documents=(0, 8)),)
    loaded = load({"study": "pilot"}, pilot=[arm("gkd", trials)], selection=own)
    if shared is None:
        [start] = best(tmp_path, loaded)
        assert set(start.tasks) == {*own, *tasks}
    else:
        message = refused(tmp_path, loaded).message
        assert f"found the documents {shared} of addition in both" in message
        assert "would bring the test suite into the search" in message


@pytest.mark.parametrize("name", ["test", "selection-of-the-pilot"])
def test_old_records_that_have_only_a_hash_are_compared_by_it(
    tmp_path: Path, load: Load, name: str
) -> None:
    entry = {"study": "pilot"}
    write_yaml(tmp_path / "pilot-selection.yaml", adder_suite(name, 50, 58))
    digest = suite_spec(load_suite(tmp_path / "pilot-selection.yaml")).content_hash
    scores = completed(0.9).scores
    assert scores is not None
    seen = completed(0.9).model_copy(
        update={"scores": scores.model_copy(update={"suite": name, "suite_hash": digest})}
    )
    pilot = [arm("gkd", [trial(0, seen, lmbda=0.5, beta=0.5)])]
    problem = refused(tmp_path, load(entry, pilot=pilot))
    assert f"found the suite {name} in both" in problem.message


def test_the_suite_of_a_study_on_this_machine_is_read_from_its_trials(
    tmp_path: Path, load: Load
) -> None:
    loaded = load({"study": "runs/pilot"})
    for first in (57, 58):
        write_yaml(tmp_path / "other.yaml", adder_suite("other", first, 70))
        evaluation = {"selection": "other.yaml", "test": "selection.yaml"}
        study_file = tmp_path / "pilot.yaml"
        values = adder_study(study="pilot", arms={"gkd": {"search": SEARCH}}, evaluation=evaluation)
        write_yaml(study_file, values)
        record = go_on(study_file, MemoryTracker("pilot"), WritingExecutor())
        assert record.selection == load_study(study_file).selection.config.tasks
        if first == 57:
            assert "documents 57 to 57 of addition" in refused(tmp_path, loaded).message
            shutil.rmtree(tmp_path / "runs")
    assert best(tmp_path, loaded)[0].tasks == record.selection


# A study that was started


def open_study(tmp_path: Path, loaded: LoadedStudy, *, trials: bool = True) -> StudyManifest:
    starts = start_settings(loaded, paths(tmp_path))
    manifest = open_manifest(loaded, paths(tmp_path), ["sweeper"], 1, starts)
    if trials:
        write_text_atomically(paths(tmp_path).trial("gkd", 0).spec, "{}")
    return manifest


def test_a_study_that_resumes_keeps_what_it_started_with(tmp_path: Path, load: Load) -> None:
    loaded = load({"study": "pilot", "best": 2})
    first = open_study(tmp_path, loaded)
    (tmp_path / "pilot" / "records.json.gz").unlink()
    assert open_study(tmp_path, loaded) == first
    assert [start.trial for start in first.start_with["gkd"]] == [4, 1]
    fewer = load_study(loaded.path, ["budget.trials=2"])
    assert open_study(tmp_path, fewer).start_with == first.start_with
    assert open_manifest(fewer, paths(tmp_path), ["sweeper"], 1).start_with == first.start_with


def test_until_the_first_trial_it_is_read_again(tmp_path: Path, load: Load) -> None:
    first = open_study(tmp_path, load({"study": "pilot"}), trials=False)
    paths(tmp_path).optuna.write_text("what was queued", encoding="utf-8")
    pilot = [arm("gkd", [*TRIALS, earlier(6, 1.0, lmbda=0.6, beta=0.5)])]
    second = open_study(tmp_path, load({"study": "pilot"}, pilot=pilot), trials=False)
    assert [start.trial for start in second.start_with["gkd"]] == [6]
    assert second.identity != first.identity
    assert not paths(tmp_path).optuna.exists()


def test_another_start_makes_another_study(tmp_path: Path, load: Load) -> None:
    open_study(tmp_path, load([{"lmbda": 0.5}]))
    for changed in ([{"lmbda": 0.6}], [], {"study": "pilot"}):
        with pytest.raises(StudyChangedError, match=r"arms\.gkd\.start_with: was .*, now"):
            open_study(tmp_path, load(changed))
    new = ["arms.late.method=sft", f"arms.late.search={RATE}"]
    loaded = load_study(
        load([{"lmbda": 0.5}]).path, [*new, "arms.late.start_with={learning_rate: 0.001}"]
    )
    assert open_study(tmp_path, loaded).start_with["late"] == (
        EnqueuedSettings(settings={"learning_rate": 0.001}),
    )


# The check


def test_the_check_says_what_is_given_and_what_only_some_arms_have(
    tmp_path: Path, load: Load
) -> None:
    loaded = load([{"lmbda": 0.5}, {"study": "pilot"}])
    starts = start_settings(loaded, paths(tmp_path))
    given, suites, uneven = start_findings(loaded.config, starts, "another")
    assert given.state == "ok"
    assert given.detail == (
        "gkd: trials with given settings: 1 of the study file, pilot gkd #4; sampled where not"
        " given: beta, temperature"
    )
    assert suites.state == "warning" and "selection suite of pilot" in suites.detail
    assert uneven.state == "warning"
    assert uneven.detail == "given settings in gkd, none in sft"
    served = {"engine": "vllm"}
    others = {name: tuple(s.model_copy(update=served) for s in all) for name, all in starts.items()}
    _, engines, _ = start_findings(loaded.config, others, "another")
    assert engines.state == "warning"
    assert "best is by scores of vllm in pilot; here transformers computes them" in engines.detail
    assert [f.state for f in start_findings(loaded.config, starts, HASH)] == ["ok", "warning"]
    assert not list(start_findings(loaded.config, {}, HASH))
