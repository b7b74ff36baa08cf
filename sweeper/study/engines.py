"""The test of what samples rollouts: whether a study needs one, and what it samples."""

from __future__ import annotations

from typing import Final

from sweeper.config.arms import ArmConfig
from sweeper.config.base import Scalar
from sweeper.config.lengths import has_engine, samples
from sweeper.config.rollouts import RolloutEngine
from sweeper.config.settings import effective, model_settings, resolve
from sweeper.config.study import StudyConfig
from sweeper.records import Outcome
from sweeper.records.engines import EngineRequest
from sweeper.records.layout import StudyPaths
from sweeper.records.outcome_files import read_completed

STEP: Final = "engines"
MOST_PROMPTS = 256
"""Most prompts of the test: steps with more are sampled in several batches anyway."""
_MORE = (
    "gradient_accumulation_steps",
    "lmbda",
    "max_new_tokens",
    "per_device_train_batch_size",
    "rollout_batch_size",
)
"""Settings of which more makes more rollouts: the largest value of a space counts."""


def engine_request(config: StudyConfig) -> EngineRequest | None:
    """Return what the preparation should test; None if there is nothing to test.

    Without on-policy arms there is not, and the engines ``sweeper`` and ``vllm`` are taken as they
    are: the first is the measure, the second has a step of its own.
    """
    wanted = config.rollouts.engine
    arms = {
        name: arm for name, arm in config.arms.items() if samples(arm) and has_engine(config, arm)
    }
    if not arms or wanted not in ("auto", "transformers"):
        return None
    requests = [_request(config, name, arm) for name, arm in arms.items()]
    return max(requests, key=lambda request: request.prompts * request.settings.max_new_tokens)


def read_engines(paths: StudyPaths) -> Outcome | None:
    """Return the outcome of the test; None if there was none."""
    outcome = read_completed(paths.preparation(STEP))
    return outcome if outcome is not None and outcome.engines is not None else None


def _request(config: StudyConfig, name: str, arm: ArmConfig) -> EngineRequest:
    params = {key: _largest(key, list(space.ends().values())) for key, space in arm.search.items()}
    settings = effective(arm.method, resolve(config.training, arm.settings, params))
    on_policy = max(1, round(settings.gradient_accumulation_steps * settings.lmbda))
    candidates: tuple[RolloutEngine, ...] = ("sweeper", "transformers", "vllm")
    left_out: dict[RolloutEngine, str] = {}
    if config.rollouts.engine == "transformers":
        candidates = ("transformers",)
    elif config.compute.devices_per_trial > 1:
        candidates = ("sweeper", "vllm")
        left_out = {"transformers": "it samples on one device, and trials have several"}
    return EngineRequest(
        candidates=candidates,
        left_out=left_out,
        arm=name,
        settings=settings,
        lora=model_settings("lora", arm.settings, params),
        prompts=min(settings.per_device_train_batch_size * on_policy, MOST_PROMPTS),
    )


def _largest(key: str, values: list[Scalar]) -> Scalar:
    numbers = [value for value in values if isinstance(value, int | float)]
    return max(numbers) if key in _MORE and numbers else values[(len(values) - 1) // 2]
