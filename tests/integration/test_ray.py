"""Studies on Ray clusters of two nodes: one that loses a node, and that of ``make cluster``."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from sweeper.foundation.errors import SweeperError
from tests.support.study_folders import outcomes, params, run, trial_runs
from tests.support.tiny_studies import ROOT, adder_study
from tests.support.trial_jobs import make_spec
from tests.support.whole_studies import wait_beside

pytestmark = [
    pytest.mark.slow,
    # Ray's own processes and sockets outlast what Python thinks of them.
    pytest.mark.filterwarnings("ignore"),
]

WriteStudy = Callable[..., Path]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one core each, on this machine."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 1, "include_dashboard": False}
    found = Cluster(initialize_head=True, head_node_args=arguments)
    try:
        yield found
    finally:
        found.shutdown()


def compute(address: str) -> dict[str, Any]:
    return {"executor": "ray", "address": address, "resources_per_trial": {"cpu": 1}}


def training(directory: Path) -> int:
    """How many trials have begun to train and have not ended."""
    trials = [path.parent for path in directory.glob("runs/tiny/arms/*/*/spec.json")]
    return sum(
        not (trial / "outcome.json").exists()
        and (trial / "progress.jsonl").exists()
        and '"loss"' in (trial / "progress.jsonl").read_text()
        for trial in trials
    )


@pytest.mark.soak
def test_a_node_that_is_taken_away_loses_nothing(write_study: WriteStudy, cluster: Any) -> None:
    second = cluster.add_node(num_cpus=1)
    long = {**adder_study()["training"], "max_steps": 150}
    study = write_study(trials=2, training=long, compute=compute(cluster.address))
    directory = study.parent
    command = [sys.executable, "-m", "sweeper", "run", "study.yaml", "--cache-dir", "cache"]
    with subprocess.Popen(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_beside(process, lambda: training(directory) == 2)
        cluster.remove_node(second)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "was lost" in out
    assert {outcome["state"] for outcome in outcomes(directory).values()} == {"completed"}
    assert len(outcomes(directory)) == 4
    lost = list(directory.glob("runs/tiny/arms/*/*/attempts/1/lost"))
    assert len(lost) == 1
    for arm in ("gkd", "sft"):
        storage = f"sqlite:///{directory / 'runs' / 'tiny' / 'study.db'}"
        trials = optuna.load_study(study_name=f"tiny/{arm}", storage=storage).trials
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
    assert [found.info.status for found in trial_runs(directory)] == ["FINISHED"] * 4


@pytest.mark.soak
def test_on_one_node_the_trials_are_those_of_the_local_executor(
    write_study: WriteStudy, cluster: Any, tmp_path: Path
) -> None:
    pruner = {"type": "median", "at": [0.5], "documents": 6, "startup_trials": 1}
    study = write_study(pruner=pruner, compute=compute(cluster.address))
    done = run(study)
    assert done.returncode == 0, done.stderr
    states = {name: outcome["state"] for name, outcome in outcomes(tmp_path).items()}
    sampled = params(tmp_path)
    (tmp_path / "runs").rename(tmp_path / "on-ray")
    assert run(write_study(pruner=pruner)).returncode == 0
    assert params(tmp_path) == sampled
    assert {name: outcome["state"] for name, outcome in outcomes(tmp_path).items()} == states


@pytest.mark.soak
def test_a_killed_coordinator_leaves_no_job_behind(write_study: WriteStudy, cluster: Any) -> None:
    long = {**adder_study()["training"], "max_steps": 10**6}
    study = write_study(arms={"sft": {}}, training=long, compute=compute(cluster.address))
    directory = study.parent
    command = [sys.executable, "-m", "sweeper", "run", "study.yaml", "--cache-dir", "cache"]
    with subprocess.Popen(
        command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    ) as process:
        wait_beside(process, lambda: training(directory) == 1)
        os.kill(process.pid, signal.SIGKILL)
    from filelock import FileLock

    # The job's process holds its directory for as long as it lives.
    [trial] = directory.glob("runs/tiny/arms/sft/*")
    with FileLock(trial / "lock", timeout=60):
        pass
    write_study(arms={"sft": {}}, compute=compute(cluster.address))
    assert "was started differently" in run(study).stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"address": "127.0.0.1:9"}, "no Ray cluster answers at '127.0.0.1:9'"),
        (
            {"address": "local", "resources_per_trial": {"cpu": 999}},
            "each trial takes 999 CPU, but no node",
        ),
    ],
)
def test_a_cluster_that_cannot_do_it_is_told_at_once(
    write_study: WriteStudy, changes: dict[str, Any], message: str
) -> None:
    done = run(write_study(compute={"executor": "ray", **changes}))
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert message in " ".join(done.stderr.split())


@pytest.mark.soak
def test_a_node_that_others_have_filled_gets_no_trial(
    write_study: WriteStudy, cluster: Any
) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from sweeper.config.compute import ComputeConfig
    from sweeper.execution.ray_cluster import RayExecutor

    cluster.add_node(num_cpus=1)
    study = write_study()
    config = ComputeConfig.model_validate(compute(cluster.address))

    class Other:
        """Somebody else's work."""

        def begin(self) -> None:
            """Returns once it has its core."""

    with RayExecutor(config) as executor:
        for number, found in enumerate(ray.nodes()):
            there = NodeAffinitySchedulingStrategy(found["NodeID"], soft=False)
            other = ray.remote(num_cpus=1)(Other).options(scheduling_strategy=there).remote()
            ray.get(other.begin.remote())
            while executor.free() != 1:
                executor.wait(0.1)
            # It would wait for ever on the node that is full.
            executor.submit(make_spec(study, number))
            finished: list[Any] = []
            while executor.running():
                finished += executor.wait(60)
            assert [done.outcome.state for done in finished] == ["completed"]
            ray.kill(other)


@pytest.fixture(scope="module")
def made_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The cluster of ``make cluster``, for a user without a token; the environment to use it in."""
    home = tmp_path_factory.mktemp("home")
    environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    venv = Path(sys.executable).parents[1]
    # The environment of these tests, left as it is.
    make = ["make", "--assume-old", f"{venv}/installed", f"VENV={venv}", f"CLUSTER_PORT={port}"]
    where: dict[str, Any] = {"cwd": ROOT, "env": environment, "timeout": 280, "check": True}
    try:
        subprocess.run([*make, "cluster"], **where)
        yield {**environment, "RAY_ADDRESS": f"127.0.0.1:{port}"}
    finally:
        subprocess.run([*make, "cluster-stop"], **where)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert nodes(port) == []


def sweep(directory: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sweeper", "run", "study.yaml", "--cache-dir", "cache"]
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=280
    )


def nodes(port: object) -> list[Any]:
    """The processes that belong to the cluster at ``port``, but for what these have started."""
    import ray  # noqa: F401  # ships psutil
    import psutil  # isort: skip

    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if f"--gcs-address=127.0.0.1:{port}" in (process.info["cmdline"] or ())
    ]


def listening(port: str) -> set[str]:
    """The addresses on which the nodes of the cluster at ``port`` listen, and their agents."""
    found = set()
    for process in nodes(port):
        for one in (process, *process.children(recursive=True)):
            found |= {
                place.laddr.ip for place in one.net_connections("tcp") if place.status == "LISTEN"
            }
    return found


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_cluster_of_make_runs_a_study_and_is_reached_from_this_machine_alone(
    write_study: WriteStudy, made_cluster: dict[str, str]
) -> None:
    assert listening(made_cluster["RAY_ADDRESS"].rpartition(":")[2]) <= {
        "127.0.0.1",
        "::ffff:127.0.0.1",
    }
    file = Path(made_cluster["HOME"]) / ".ray" / "auth_token"
    assert file.stat().st_mode & 0o077 == 0
    study = write_study(arms={"sft": {}}, trials=2, compute=compute("auto"))
    for name in ("peft", "pydantic", "filelock", "ray"):
        (study.parent / f"{name}.py").write_text("raise SystemExit('of the working directory')\n")
    done = sweep(study.parent, made_cluster)
    assert done.returncode == 0, done.stderr
    assert {outcome["state"] for outcome in outcomes(study.parent).values()} == {"completed"}
    token = file.read_bytes().strip()
    assert token
    written = [path for path in study.parent.rglob("*") if path.is_file()]
    assert [path for path in written if token in path.read_bytes()] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"HOME": "/nonexistent"}, "asks for a token, but there is none here"),
        ({"RAY_AUTH_TOKEN": secrets.token_hex()}, "has another token than RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN_PATH": "/nonexistent"}, "RAY_AUTH_TOKEN_PATH, /nonexistent"),
        ({"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE=disabled is set: unset it"),
    ],
    ids=["none", "another", "no file", "forbidden"],
)
def test_a_token_that_is_missing_or_wrong_is_told(
    made_cluster: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    message: str,
) -> None:
    from sweeper.execution.ray_connection import connected

    for name, text in {**made_cluster, **changes}.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(SweeperError, match="token") as caught, connected("auto"):
        pass
    assert message in str(caught.value)
    assert changes.get("RAY_AUTH_TOKEN", "no token") not in str(caught.value)
    assert os.environ.get("RAY_AUTH_MODE") == changes.get("RAY_AUTH_MODE")


def _nothing() -> str:
    return "done"


@pytest.mark.soak
def test_a_cluster_that_asks_for_no_token_is_reached_with_one_at_hand(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from sweeper.execution.ray_connection import connected

    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex())
    with connected(cluster.address):
        assert ray.get(ray.remote(_nothing).remote(), timeout=60) == "done"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with (
        pytest.raises(SweeperError, match="asks for no token, but RAY_AUTH_MODE=token is set"),
        connected(cluster.address),
    ):
        pass
