"""How rollouts are sampled: an engine gives the same distribution as another, at its own speed."""

from __future__ import annotations

from typing import Literal

from sweeper.config.base import Strict

RolloutEngine = Literal["sweeper", "transformers", "vllm"]


class RolloutsConfig(Strict):
    """What samples students' rollouts."""

    engine: Literal["auto", "sweeper", "transformers", "vllm"] = "sweeper"
    """`sweeper`: its own decoding loop; `transformers`: continuous batching (`generate_batch`);
    `vllm`: a server on each device, which gets the student's weights before it samples; `auto`:
    the fastest of those that pass a test with the study's models on its device, for all trials."""
