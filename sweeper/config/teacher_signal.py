"""Where the teacher's signal may be one sampled token."""

from __future__ import annotations

from collections.abc import Iterator

from sweeper.config.arms import ArmConfig
from sweeper.config.base import KeyPath, Refusal, short
from sweeper.config.settings import resolve
from sweeper.config.study import StudyConfig

_WHY = "one token estimates the divergence only where the student sampled it"
_NOISE = "neftune_noise_alpha"


def signal_problems(config: StudyConfig) -> Iterator[Refusal]:
    """Yield arms that would read one token where the student did not sample it."""
    for name, arm in config.arms.items():
        for place, value in arm.places("teacher_signal"):
            if value == "sampled":
                for key, message in _problems(config, arm, place):
                    yield ("arms", name, *key), message


def _problems(config: StudyConfig, arm: ArmConfig, place: KeyPath) -> Iterator[Refusal]:
    """Yield what keeps an arm from ``teacher_signal: sampled``, which stands at ``place``."""
    if arm.method != "gkd":
        yield place, f"expected exact or top_k in an arm of method {arm.method}: {_WHY} (gkd)"
        return
    beside = "with teacher_signal: sampled"
    shares = list(arm.places("lmbda"))
    if not shares:
        yield place, f"expected lmbda: 1.0 next to sampled, found no lmbda: {_WHY}"
    for where, lmbda in shares:
        if lmbda != 1:
            yield where, f"expected 1.0 {beside}, found {short(lmbda)}: {_WHY}"
    # A student samples without them, so what it trains with would be another distribution.
    for where, off in arm.places("disable_dropout"):
        if off is False:
            yield where, f"expected true {beside}: students sample without dropout"
    noise = f"extra.{_NOISE}"
    if _NOISE in resolve(config.training, arm.settings).extra or noise in arm.search:
        yield place, f"expected exact or top_k with {_NOISE}: students sample without noise"
