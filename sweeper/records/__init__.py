"""The records that cross process walls, and where each lies on disk.

All are frozen, plain and JSON; their fields are file formats. What is computed from them belongs to
``analysis``. Start with ``specs`` and ``outcomes``; ``layout`` has the files, ``seeds`` the seeds.
"""

from __future__ import annotations

from sweeper.records.base import (
    DEVICE_FAULTS,
    OF_DEVICES,
    SCHEMA_VERSION,
    SUSPICIONS,
    Failure,
    FailureKind,
    Record,
)
from sweeper.records.data_check import (
    DataCheck,
    DataSummary,
    Lengths,
    RowsSummary,
    ScoredTask,
    TokenizerSummary,
    TokenLengths,
)
from sweeper.records.device_faults import DeviceFault
from sweeper.records.engines import EngineChoice, EngineRequest, EngineTest
from sweeper.records.model_shapes import Autocast, Growth, ModelShape, ShapeRequest, Training
from sweeper.records.outcomes import (
    INTERIM_PHASE,
    CollapseKind,
    CollapseSign,
    Cost,
    IntermediateScore,
    Outcome,
    Progress,
    Rollouts,
    Scores,
    TaskScore,
)
from sweeper.records.pair import (
    PairDiagnosis,
    PairRequest,
    ProbedPair,
    ProbedPrompt,
    Reading,
    SampledAnswer,
)
from sweeper.records.serving import ServedModel, ServerCost, ServerRecord, ServerStart
from sweeper.records.specs import (
    ConfirmationRun,
    EnqueuedSettings,
    IntermediatePoint,
    JobSpec,
    KeptStudent,
    PreparationSpec,
    Rehearsal,
    Resources,
    StudyInputs,
    SuiteSpec,
    TrialSpec,
)

__all__ = [
    "DEVICE_FAULTS",
    "INTERIM_PHASE",
    "OF_DEVICES",
    "SCHEMA_VERSION",
    "SUSPICIONS",
    "Autocast",
    "CollapseKind",
    "CollapseSign",
    "ConfirmationRun",
    "Cost",
    "DataCheck",
    "DataSummary",
    "DeviceFault",
    "EngineChoice",
    "EngineRequest",
    "EngineTest",
    "EnqueuedSettings",
    "Failure",
    "FailureKind",
    "Growth",
    "IntermediatePoint",
    "IntermediateScore",
    "JobSpec",
    "KeptStudent",
    "Lengths",
    "ModelShape",
    "Outcome",
    "PairDiagnosis",
    "PairRequest",
    "PreparationSpec",
    "ProbedPair",
    "ProbedPrompt",
    "Progress",
    "Reading",
    "Record",
    "Rehearsal",
    "Resources",
    "Rollouts",
    "RowsSummary",
    "SampledAnswer",
    "ScoredTask",
    "Scores",
    "ServedModel",
    "ServerCost",
    "ServerRecord",
    "ServerStart",
    "ShapeRequest",
    "StudyInputs",
    "SuiteSpec",
    "TaskScore",
    "TokenLengths",
    "TokenizerSummary",
    "Training",
    "TrialSpec",
]
