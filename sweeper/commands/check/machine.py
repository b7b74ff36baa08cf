"""Findings on this machine: precisions that it computes slowly, and what a shell left behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sweeper.analysis.findings import Finding
from sweeper.config.study import StudyConfig
from sweeper.foundation.environment import leftovers
from sweeper.reporting.text.formatting import listed


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
