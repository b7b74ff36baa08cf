"""What a study has of this machine; findings on its precisions, and on what a shell left behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from sweeper.analysis.findings import Finding
from sweeper.commands.check.served_models import PlannedServer, planned_servers
from sweeper.config.device_defaults import cannot
from sweeper.config.loading import LoadedStudy
from sweeper.config.study import StudyConfig
from sweeper.execution.device_sharing import (
    DeviceMemory,
    jobs_on_a_gpu,
    per_device,
    trial_memory,
    usable_devices,
)
from sweeper.execution.devices import device_kinds
from sweeper.foundation.environment import leftovers
from sweeper.foundation.errors import SweeperError
from sweeper.records.layout import StudyPaths
from sweeper.reporting.text.formatting import listed
from sweeper.study.device_precision import as_recorded, kinds_here, with_precision
from sweeper.study.manifest import has_begun, read_manifest
from sweeper.study.served_models import server_problems, trial_devices


class Machine(NamedTuple):
    """What a study has of this machine."""

    devices: Sequence[str] = ()
    """Devices of trials."""
    sharing: int = 1
    """Most jobs on a GPU at a time."""
    places: Sequence[DeviceMemory] = ()
    """Memory of trials, without servers."""
    servers: Sequence[PlannedServer] = ()
    problems: Sequence[Finding] = ()


def machine_of(study: LoadedStudy) -> Machine:
    """Return what a study has of this machine; nothing of one whose jobs run on a cluster."""
    compute = study.config.compute
    if compute.executor != "local":
        gpu = compute.resources_per_trial.gpu
        return Machine(sharing=per_device(gpu) if gpu else 1)
    try:
        # What is wrong with servers is reported with the places of the study.
        wrong = server_problems(study)
        devices = (None if wrong else trial_devices(study)) or usable_devices(compute)
        servers = [] if wrong else planned_servers(study, devices)
        sharing = jobs_on_a_gpu(compute, devices)
        return Machine(devices, sharing, trial_memory(compute, devices), servers)
    except SweeperError as error:
        return Machine(problems=[Finding(state="error", what="compute", detail=str(error))])


def on_this_machine(study: LoadedStudy, paths: StudyPaths) -> LoadedStudy:
    """Return the study with what it takes from its devices, as far as that can be known here.

    Raises:
        ConfigError: It has trials in a precision that this machine does not have.
    """
    manifest = read_manifest(paths)
    if study.config.compute.executor != "local":
        return as_recorded(study, manifest) if manifest and has_begun(paths) else study
    try:
        kinds = kinds_here(study)
    except SweeperError:
        return study  # what is wrong with the devices is reported with the machine
    return with_precision(study, paths, kinds)[0]


def machine_findings(
    config: StudyConfig, slow: Sequence[str], environment: Mapping[str, str]
) -> list[Finding]:
    """Warn of bfloat16 where it is slow, and name the variables that do not reach trials.

    Args:
        config: The study.
        slow: The trials' devices without instructions for bfloat16.
        environment: Variables of the process that starts the trials.
    """
    return [*_bfloat16(config, slow), *_environment(environment)]


def precision_findings(study: LoadedStudy, devices: Sequence[str]) -> list[Finding]:
    """Report what the study takes from its devices, and what they cannot compute as written.

    Args:
        study: The study, with what it takes from its devices.
        devices: Devices of trials; none if trials run elsewhere.
    """
    found, config = [], study.config
    if (defaults := study.device_defaults) is not None and defaults.training:
        detail = f"{defaults.listed()} by default on {defaults.device}"
        found.append(Finding(state="ok", what="precision", detail=detail))
    elif study.device_defaults is None and config.compute.executor != "local":
        detail = "keys of training that are not written follow from the cluster's GPUs"
        found.append(Finding(state="ok", what="precision", detail=detail))
    kinds = device_kinds(devices)
    for key in cannot(config, kinds):
        if "tf32" in key.split("."):
            names = listed([kind.described() for kind in kinds])
            detail = f"{key}: true changes nothing on {names}, which has no TF32"
            advice = f"Write {key}: false, or leave it out."
            found.append(Finding(state="warning", what="precision", detail=detail, advice=advice))
    return found


def sharing_findings(config: StudyConfig, jobs: int) -> list[Finding]:
    """Warn if trials share a GPU in a study that compares at equal device-seconds.

    Args:
        config: The study.
        jobs: Most jobs on a GPU at a time.
    """
    if jobs < 2 or not config.confirms() or "device_seconds" not in config.compare_at:
        return []
    return [
        Finding(
            state="warning",
            what="devices",
            detail=f"up to {jobs} trials share a GPU, so that the seconds of one depend on the"
            " others: arms are not compared at equal device_seconds",
            advice="For one trial a GPU, leave compute.workers and resources_per_trial.gpu out;"
            " else write compare_at: [steps, tokens].",
        )
    ]


def _bfloat16(config: StudyConfig, slow: Sequence[str]) -> Iterator[Finding]:
    places = [place for place, value in config.values_of("bf16") if value]
    keys = dict.fromkeys(".".join(map(str, place)) for place in places)
    dtypes = {
        "student.dtype": config.student.dtype,
        "teacher.dtype": config.teacher.dtype,
        "evaluation.dtype": config.evaluation.dtype,
    }
    wide = {name for name, dtype in dtypes.items() if dtype == "bfloat16"}
    if not slow or not (keys or wide):
        return
    written = [*(f"{key}: true" for key in keys), *(f"{key}: bfloat16" for key in sorted(wide))]
    verb = "computes" if len(written) == 1 else "compute"
    instead = ["bf16: false"] * bool(keys) + ["dtype: float32"] * bool(wide)
    yield Finding(
        state="warning",
        what="precision",
        detail=f"{listed(written)} {verb} in bfloat16, for which {slow[0]} has no instructions:"
        " a step may take several times as long as in float32",
        advice=f"Write {listed(instead)}.",
    )


def _environment(environment: Mapping[str, str]) -> Iterator[Finding]:
    if found := leftovers(environment):
        verb = "does" if len(found) == 1 else "do"
        yield Finding(
            state="warning",
            what="environment",
            detail=f"{listed(found)} {verb} not reach trials, which follow the study file alone",
            advice="Unset what you do not need; precision and devices are keys of the study.",
        )
