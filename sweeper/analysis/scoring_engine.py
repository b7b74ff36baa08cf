"""What computed the scores of a study: those of two engines do not compare."""

from __future__ import annotations

from sweeper.config.evaluation import ScoringEngine
from sweeper.records.study_record import StudyRecord


def scoring_engine(record: StudyRecord) -> ScoringEngine:
    """Return what computed the scores of all models of the study."""
    served = (record.config.get("evaluation") or {}).get("engine") == "vllm"
    return "vllm" if served else "transformers"
