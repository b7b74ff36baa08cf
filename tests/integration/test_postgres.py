"""Studies whose search and records are in PostgreSQL, which goes away in the middle."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow.tracking import MlflowClient

from sweeper.foundation.databases import with_driver
from sweeper.search.storage import close_storage, open_storage
from tests.support.postgres import PASSWORD, QUOTED, Server
from tests.support.study_folders import outcomes, params, run, sweeper
from tests.support.whole_studies import wait_beside

pytestmark = pytest.mark.slow

ARMS = {
    "gkd": {
        "settings": {"max_new_tokens": 8},
        "search": {"lmbda": {"type": "float", "low": 0.0, "high": 1.0}},
    },
    "sft": {"trials": 1},
}


def known_to_optuna(url: str, directory: Path) -> dict[str, list[optuna.trial.FrozenTrial]]:
    """The trials of each arm of the study."""
    identity = json.loads((directory / "runs" / "tiny" / "study.json").read_text())["identity"]
    storage = open_storage(url)
    found = {}
    for summary in optuna.get_all_study_summaries(storage):
        name, _, arm = summary.study_name.rpartition("/")
        if name == f"tiny@{identity}":
            study = optuna.load_study(study_name=summary.study_name, storage=storage)
            found[arm] = study.get_trials()
    close_storage(storage)
    return found


def known_to_mlflow(url: str) -> list[Any]:
    client = MlflowClient(with_driver(url))
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    return [run for run in found if "sweeper.trial" in run.data.tags]


def check(storage: str, tracking: str, directory: Path, budgets: dict[str, int]) -> None:
    """That Optuna, MLflow and the files know the same trials, each once."""
    expected = {f"{arm}/{number:04d}" for arm, count in budgets.items() for number in range(count)}
    assert set(outcomes(directory)) == expected
    searched = known_to_optuna(storage, directory)
    assert {arm: len(trials) for arm, trials in searched.items()} == budgets
    for arm, trials in searched.items():
        for trial in trials:
            name = f"{arm}/{trial.number:04d}"
            assert trial.state.name == "COMPLETE"
            assert trial.params == params(directory)[name]
            assert trial.value == outcomes(directory)[name]["scores"]["score"]
    runs = known_to_mlflow(tracking)
    tags = [run.data.tags for run in runs]
    assert sorted(f"{t['sweeper.arm']}/{int(t['sweeper.trial']):04d}" for t in tags) == sorted(
        expected
    )
    assert {run.info.status for run in runs} == {"FINISHED"}


def check_secrecy(directory: Path, server: Server, *urls: str) -> None:
    """That the password is in no file that the study wrote, and in no database."""
    for path in directory.rglob("*"):
        if path.is_file() and path.parent != directory:
            content = path.read_bytes()
            assert QUOTED.encode() not in content and PASSWORD.encode() not in content, path
    for url in urls:
        content = server.dump(url.rpartition("/")[2])
        assert "COPY" in content or "INSERT" in content
        assert QUOTED not in content and PASSWORD not in content


@pytest.mark.soak
def test_a_study_in_postgres_is_continued_and_keeps_the_password_to_itself(
    write_study: Callable[..., Path],
    postgres: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    storage, tracking = postgres.database(), postgres.database()
    study = write_study(arms=ARMS, trials=1, storage=storage)
    directory = study.parent
    done = [run(study, "--set", f"tracking.uri={tracking}")]
    assert done[0].returncode == 0, done[0].stderr
    check(storage, tracking, directory, {"gkd": 1, "sft": 1})

    # The password may move to where libpq finds it, and nothing but the budget has changed.
    bare = postgres.url(storage.rpartition("/")[2], None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        bare_tracking = postgres.url(tracking.rpartition("/")[2], None)
        settings = (f"storage={bare}", f"tracking.uri={bare_tracking}", "trials=2")
        options = [part for setting in settings for part in ("--set", setting)]
        done.append(run(study, *options))
    assert done[1].returncode == 0, done[1].stderr
    check(storage, tracking, directory, {"gkd": 2, "sft": 1})

    other = postgres.url("elsewhere")
    done.append(run(study, "--set", f"storage={other}", "--set", "trials=2"))
    assert done[2].returncode == 2
    assert "storage: was " in done[2].stderr and "/elsewhere" in done[2].stderr

    # Another person's study of the same name, on the same server.
    second = tmp_path_factory.mktemp("second")
    for name in ("study.yaml", "selection.yaml", "test.yaml"):
        (second / name).write_text((directory / name).read_text())
    (second / "cache").symlink_to(directory / "cache")
    done.append(run(second / "study.yaml", "--set", "arms={sft: {}}"))
    assert done[3].returncode == 0, done[3].stderr
    assert {arm: len(found) for arm, found in known_to_optuna(storage, second).items()} == {
        "sft": 1
    }
    check(storage, tracking, directory, {"gkd": 2, "sft": 1})

    done.append(sweeper(directory, "status", study.name))
    done.append(sweeper(directory, "report", study.name))
    for one in done:
        assert "Traceback" not in one.stderr
        assert QUOTED not in one.stdout + one.stderr
        assert PASSWORD not in one.stdout + one.stderr
    check_secrecy(directory, postgres, storage, tracking)


@pytest.mark.soak
def test_a_server_that_restarts_in_the_middle_of_a_study_loses_nothing(
    write_study: Callable[..., Path], postgres: Server
) -> None:
    storage, tracking = postgres.database(), postgres.database()
    study = write_study(
        arms=ARMS, trials=3, storage=storage, tracking={"uri": tracking}, evaluation={
            "selection": "selection.yaml", "samples": 0,
        },
    )  # fmt: skip
    directory = study.parent
    command = [sys.executable, "-m", "sweeper", "run", "study.yaml", "--cache-dir", "cache"]
    with subprocess.Popen(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        trial = directory / "runs" / "tiny" / "arms" / "gkd" / "0001"
        wait_beside(process, (trial / "spec.json").exists)
        postgres.stop()
        told = []
        assert process.stdout is not None
        for line in process.stdout:
            told.append(line)
            if "does not answer" in line:
                break
        postgres.start()
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "Trying again for up to 10 minutes" in "".join(told)
    assert "The database answers again" in out
    assert err == ""
    check(storage, tracking, directory, {"gkd": 3, "sft": 1})


@pytest.mark.soak
def test_a_server_that_stays_away_stops_the_study_which_goes_on_later(
    write_study: Callable[..., Path], postgres: Server
) -> None:
    storage, tracking = postgres.database(), postgres.database()
    study = write_study(arms=ARMS, trials=2, storage=storage, tracking={"uri": tracking})
    code = "import sweeper.foundation.database_retry as r; r.Retry.__init__.__defaults__ = (0.5,); "
    code += "from sweeper.cli import main; import sys; sys.argv[0] = 'sweeper'; main()"
    command = [sys.executable, "-c", code, "run", "study.yaml", "--cache-dir", "cache"]
    with subprocess.Popen(
        command, cwd=study.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        trial = study.parent / "runs" / "tiny" / "arms" / "sft" / "0000"
        wait_beside(process, (trial / "spec.json").exists)
        postgres.stop()
        _, err = process.communicate(timeout=240)
    postgres.start()
    assert process.returncode == 1
    assert err.startswith("error: ")
    assert "did not answer for 0 seconds" in err
    assert "run the same command again once the database answers" in err
    assert "Traceback" not in err and QUOTED not in err
    assert run(study).returncode == 0
    check(storage, tracking, study.parent, {"gkd": 2, "sft": 1})
