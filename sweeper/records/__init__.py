"""The records that cross walls: what a job is told, what it reports, how it ended.

All are frozen, plain and JSON. Whoever reads an old record checks ``schema_version``.
"""

from __future__ import annotations

from sweeper.records.base import SCHEMA_VERSION, Failure, FailureKind, Record, derive_seed
from sweeper.records.data_check import (
    DataSummary,
    Examination,
    Lengths,
    RowsSummary,
    ScoredTask,
    TokenizerSummary,
    TokenLengths,
)
from sweeper.records.model_shapes import Autocast, Growth, ModelShape, ShapeRequest, Training
from sweeper.records.outcomes import (
    INTERIM_PHASE,
    Cost,
    Interim,
    Outcome,
    Progress,
    Rollouts,
    Scores,
    TaskScore,
)
from sweeper.records.specs import (
    Final,
    InterimPoint,
    JobSpec,
    KeptStudent,
    Origin,
    Place,
    PreparationSpec,
    SuiteSpec,
    TrialSpec,
)

__all__ = [
    "INTERIM_PHASE",
    "SCHEMA_VERSION",
    "Autocast",
    "Cost",
    "DataSummary",
    "Examination",
    "Failure",
    "FailureKind",
    "Final",
    "Growth",
    "Interim",
    "InterimPoint",
    "JobSpec",
    "KeptStudent",
    "Lengths",
    "ModelShape",
    "Origin",
    "Outcome",
    "Place",
    "PreparationSpec",
    "Progress",
    "Record",
    "Rollouts",
    "RowsSummary",
    "ScoredTask",
    "Scores",
    "ShapeRequest",
    "SuiteSpec",
    "TaskScore",
    "TokenLengths",
    "TokenizerSummary",
    "Training",
    "TrialSpec",
    "derive_seed",
]
