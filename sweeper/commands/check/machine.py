"""What a study has of this machine; findings on its precisions, and on what a shell left behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from sweeper.analysis.findings import Finding
from sweeper.commands.check.served_models import PlannedServer, planned_servers
from sweeper.config.loading import LoadedStudy
from sweeper.config.study import StudyConfig
from sweeper.execution.device_sharing import DeviceMemory, trial_memory, usable_devices
from sweeper.foundation.environment import leftovers
from sweeper.foundation.errors import SweeperError
from sweeper.reporting.text.formatting import listed
from sweeper.study.served_models import server_problems, trial_devices


class Machine(NamedTuple):
    """What a study has of this machine."""

    devices: Sequence[str] = ()
    """Devices of trials."""
    places: Sequence[DeviceMemory] = ()
    """Memory of trials, without servers."""
    servers: Sequence[PlannedServer] = ()
    problems: Sequence[Finding] = ()


def machine_of(study: LoadedStudy) -> Machine:
    """Return what a study has of this machine; nothing of one whose jobs run on a cluster."""
    compute = study.config.compute
    if compute.executor != "local":
        return Machine()
    try:
        # What is wrong with servers is reported with the places of the study.
        wrong = server_problems(study)
        devices = (None if wrong else trial_devices(study)) or usable_devices(compute)
        servers = [] if wrong else planned_servers(study, devices)
        return Machine(devices, trial_memory(compute, devices), servers)
    except SweeperError as error:
        return Machine(problems=[Finding(state="error", what="compute", detail=str(error))])


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
