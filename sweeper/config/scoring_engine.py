"""What computes the scores of a study: loaded models, or vLLM servers that have their weights."""

from __future__ import annotations

from collections.abc import Iterator

from sweeper.config.base import Refusal
from sweeper.config.evaluation import EvaluationConfig
from sweeper.config.models import ModelConfig
from sweeper.config.started_server import StartedServer
from sweeper.config.study import StudyConfig


def teacher_is_scored(teacher: ModelConfig, evaluation: EvaluationConfig) -> bool:
    """Return whether the study's teacher has a score: by the same engine as the students."""
    if teacher.server is None:
        return True
    return evaluation.engine == "vllm" and teacher.server.gives_tokens


def scoring_engine_problems(config: StudyConfig) -> Iterator[Refusal]:
    """Yield why the teacher cannot be scored by the engine that scores the students."""
    if config.evaluation.engine != "vllm":
        return
    server = config.teacher.server
    if server is None:
        message = (
            "expected transformers next to a teacher that is loaded: all models are scored by one"
            " engine. Write teacher.server: {start: vllm}, and the teacher is scored through its"
            " server"
        )
        yield ("evaluation", "engine"), message
    dtype = config.scoring_dtype()
    if isinstance(server, StartedServer) and config.teacher.dtype != dtype:
        message = (
            f"expected {dtype}, which models are scored in (evaluation.dtype), found"
            f" {config.teacher.dtype}: with evaluation.engine: vllm the teacher's server scores it"
            " as it runs"
        )
        yield ("teacher", "dtype"), message
