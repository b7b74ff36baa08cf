"""The diagnosis of a study's pair: what it samples, where it is kept, and which study it is of."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Final

from sweeper.config.lengths import study_lengths
from sweeper.config.models import START
from sweeper.config.own_teachers import named_models
from sweeper.config.study import StudyConfig
from sweeper.foundation.cache import content_key
from sweeper.foundation.files import write_bytes_atomically
from sweeper.records import Outcome, PairRequest
from sweeper.records.layout import JobPaths, StudyPaths
from sweeper.records.outcome_files import read_completed
from sweeper.study.manifest import plain_config

STEP: Final = "pair"
LONGEST = 256
"""Most tokens of an answer: of what decides, most shows early, and the probe stays short."""


def pair_request(config: StudyConfig, files: Mapping[str, str]) -> PairRequest:
    """Return what to sample of a study; ``files`` are the hashes of its ``input_hashes``."""
    sampled = [limit.sampled for limit in study_lengths(config) if limit.sampled is not None]
    rollout_limit = max(sampled, default=None)
    limit = min(rollout_limit or config.teacher_outputs.max_new_tokens, LONGEST)
    own = (model for arm in config.arms.values() for model in named_models(arm))
    others = (model for model in own if model != START)
    teachers = tuple(dict.fromkeys((config.teacher.model, *others)))
    plain = plain_config(config)
    for role in ("teacher", "student"):  # as diagnoses were recorded before there were servers
        plain[role] = {k: v for k, v in plain[role].items() if (k, v) != ("server", None)}
    decides = {key: plain[key] for key in ("seed", "teacher", "student", "data", "warm_start")}
    if config.warm_start is not None:
        training = {k: v for k, v in plain["training"].items() if k != "checkpoint_every"}
        decides |= {"training": training, "teacher_outputs": plain["teacher_outputs"]}
    key = content_key(
        {
            **decides,
            "max_length": config.training.max_length,
            "limits": [limit, rollout_limit],
            "teachers": list(teachers),
            "files": {k: v for k, v in files.items() if not k.startswith("suite ")},
        }
    )
    return PairRequest(
        key=key, max_new_tokens=limit, rollout_limit=rollout_limit, teachers=teachers
    )


def read_pair(paths: StudyPaths, config: StudyConfig, files: Mapping[str, str]) -> Outcome | None:
    """Return the recorded diagnosis; None if there is none of this very study."""
    outcome = read_completed(paths.preparation(STEP))
    if outcome is None or outcome.pair is None:
        return None
    request = pair_request(config, files)
    return outcome if outcome.pair.request.key == request.key else None


def keep(done: JobPaths, paths: StudyPaths) -> None:
    """Record a completed diagnosis with the study, whether that has begun or not."""
    kept = paths.preparation(STEP)
    kept.directory.mkdir(parents=True, exist_ok=True)
    kept.outcome.unlink(missing_ok=True)
    for source, target in ((done.spec, kept.spec), (done.log, kept.log)):
        if source.is_file():
            shutil.copyfile(source, target)
    write_bytes_atomically(kept.samples, done.samples.read_bytes())
    # Last: there is an outcome only where everything is.
    write_bytes_atomically(kept.outcome, done.outcome.read_bytes())
