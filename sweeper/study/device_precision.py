"""The precision of a study: found on its devices once, when it starts, and kept from then on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from sweeper.config.device_defaults import (
    DeviceDefaults,
    DeviceKind,
    cannot,
    device_defaults,
    with_defaults,
)
from sweeper.config.loading import LoadedStudy
from sweeper.config.study import StudyConfig
from sweeper.execution.cluster import Cluster
from sweeper.execution.device_sharing import usable_devices
from sweeper.execution.devices import device_kinds
from sweeper.execution.executor import Executor
from sweeper.foundation.errors import ConfigError
from sweeper.records.layout import StudyPaths
from sweeper.study.manifest import StudyManifest, has_begun, read_manifest
from sweeper.study.served_models import trial_devices

_OLDEST = DeviceKind("cuda", "GPU", 0.0)
"""A GPU without bfloat16 and TF32."""


def kinds_here(study: LoadedStudy) -> list[DeviceKind]:
    """Return the kinds of this machine's devices that trials may use.

    Raises:
        SweeperError: A GPU is wanted, and torch can use none.
    """
    return device_kinds(trial_devices(study) or usable_devices(study.config.compute))


def kinds_of(study: LoadedStudy, executor: Executor) -> list[DeviceKind]:
    """Return the kinds of devices that trials may use, of this machine or of a cluster's nodes.

    Args:
        study: The study.
        executor: Executor of its jobs, entered already.
    """
    if study.config.compute.executor == "local":
        return kinds_here(study)
    return cast(Cluster, executor).device_kinds()


def with_precision(
    study: LoadedStudy, paths: StudyPaths, kinds: Sequence[DeviceKind]
) -> tuple[LoadedStudy, str | None]:
    """Return the study with what it takes from its devices: as it was started, else as they are.

    Args:
        study: The study as it was written.
        paths: Its files.
        kinds: Kinds of the devices that its trials may run on now.

    Returns:
        The study, and a message if it keeps what it would not take from these devices now.

    Raises:
        ConfigError: The study has trials in a precision that a device of now does not have.
    """
    manifest, now = read_manifest(paths), device_defaults(study.config, kinds)
    if manifest is None or not has_begun(paths):
        return _with(study, now), None
    kept, recorded = as_recorded(study, manifest), manifest.device_defaults
    if recorded is None:
        return kept, None  # by an earlier version, in which devices decided nothing
    known = {*recorded.cannot, *_keys_of_new_arms(kept.config, manifest.config)}
    if missing := [key for key in cannot(kept.config, kinds) if key not in known]:
        devices = " and ".join(kind.described() for kind in kinds)
        message = (
            f"is true in the trials that the study has, on {recorded.device}, but {devices} cannot"
            " compute so: trials would not compare. Resume it on such a device, or start another"
            " study under another name"
        )
        problems = [study.file.problem(tuple(key.split(".")), message) for key in missing]
        raise ConfigError(problems)
    if all(recorded.training.get(key, value) == value for key, value in now.training.items()):
        return kept, None
    return kept, (
        f"the study keeps the precision that it was started with, on {recorded.device}:"
        f" {recorded.listed()}. A new study on {now.device} would have {now.listed()}"
    )


def _keys_of_new_arms(now: StudyConfig, before: StudyConfig) -> list[str]:
    """Return the keys that devices may not compute, of arms that have no trial yet."""
    names = now.arms.keys() - before.arms.keys()
    keys = cannot(now, [_OLDEST])
    return [key for key in keys if any(key.startswith(f"arms.{name}.") for name in names)]


def as_recorded(study: LoadedStudy, manifest: StudyManifest) -> LoadedStudy:
    """Return a study that has begun with what it took from its devices then."""
    return _with(study, manifest.device_defaults) if manifest.device_defaults else study


def _with(study: LoadedStudy, defaults: DeviceDefaults) -> LoadedStudy:
    config = with_defaults(study.config, defaults)
    return replace(study, config=config, device_defaults=defaults)
