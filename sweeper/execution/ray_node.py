"""Work on a node of a Ray cluster: it is checked, and runs jobs as processes of its own."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from sweeper.execution.executor import Spec
from sweeper.execution.processes import JobProcess, start_forkserver
from sweeper.execution.worker.process import DeviceShare
from sweeper.foundation.environment import package_versions
from sweeper.records import JobSpec, Outcome

ENVIRONMENT = (
    "HF_HUB_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "TOKENIZERS_PARALLELISM",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "NCCL_DEBUG",
)
"""Variables that jobs take over from the coordinator; everything else is the node's own."""


@dataclass(frozen=True)
class NodeView:
    """What a node must see as the coordinator does."""

    tokens: tuple[str, ...]
    """Files that the coordinator has made and locked, one in each folder that is written to."""
    inputs: tuple[str, ...]
    """Files and folders that are read."""
    versions: Mapping[str, str]
    """Packages that results depend on."""
    gpu: bool
    """True if torch has to be able to use a GPU."""


@contextmanager
def locked_tokens(folders: Sequence[Path]) -> Iterator[tuple[str, ...]]:
    """Make a locked file in each folder, for other machines to look for."""
    with ExitStack() as stack:
        paths = []
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f".seen-{uuid.uuid4().hex}"
            stack.callback(path.unlink, missing_ok=True)
            stack.enter_context(FileLock(path))
            paths.append(str(path))
        yield tuple(paths)


def look(view: NodeView) -> list[str]:
    """Return what is wrong with this node, as sentences without a subject."""
    problems = [*_unseen(view.tokens, view.inputs)]
    here = package_versions()
    for name, version in view.versions.items():
        if here.get(name) != version:
            found = here.get(name, "none")
            problems.append(f"has {name} {found}, but the coordinator has {version}")
    if view.gpu and here["torch"].endswith("+cpu"):
        problems.append(f"has torch {here['torch']}, which can use no GPU")
    return problems


def _unseen(tokens: Sequence[str], inputs: Sequence[str]) -> list[str]:
    missing = [str(Path(path).parent) for path in tokens if not Path(path).is_file()]
    missing += [path for path in inputs if not Path(path).exists()]
    problems = [f"does not see {path}" for path in missing]
    for path in tokens:
        if Path(path).is_file() and not _is_locked(path):
            problems.append(f"does not see file locks in {Path(path).parent}")
    return problems


def _is_locked(path: str) -> bool:
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False


def run_task(
    text: str,
    gpu: float,
    directory: str,
    environment: Mapping[str, str],
    run: Callable[[Spec], Outcome] | None = None,
) -> tuple[str | None, str, str | None]:
    """Run one job in a process of its own, and wait for it.

    Args:
        text: The job's spec, as JSON.
        gpu: The share of a GPU that it was given; the GPU is the caller's own visible one.
        directory: The coordinator's working directory; left alone where there is none.
        environment: Variables for the job.
        run: Function that the process calls; by default ``run_job``.

    Returns:
        Its outcome as JSON, or None if it ended without one; how its process ended; and the fault
        of a device that ended it, as JSON, or None.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") if gpu else None
    spec = with_own_student(TypeAdapter[JobSpec](JobSpec).validate_json(text), visible)
    os.environ.update(environment)
    _get_ready()
    share = DeviceShare(
        gpu=gpu or 1.0,
        visible=visible,
        directory=directory if Path(directory).is_dir() else None,
    )
    finished = JobProcess(spec, share, run).collect()
    outcome = finished.outcome.model_dump_json() if finished.outcome else None
    fault = finished.fault.model_dump_json() if finished.fault else None
    return outcome, f"{finished.reason}, on {os.uname().nodename}", fault


def with_own_student(spec: Spec, visible: str | None) -> Spec:
    """Return a job's spec with the server of students' weights on the GPU that it was given.

    Args:
        spec: The job.
        visible: ``CUDA_VISIBLE_DEVICES`` of the job.
    """
    students = spec.place.gpu_students
    if not students:
        return spec
    own = students.get(visible or "")
    place = spec.place.model_copy(update={"served_student": own, "gpu_students": {}})
    return spec.model_copy(update={"place": place})


@cache
def _get_ready() -> None:
    # A child of a forkserver imports its parent's main module again. Here that is Ray's.
    main = sys.modules["__main__"]
    if hasattr(main, "__file__"):
        del main.__file__
    start_forkserver()
