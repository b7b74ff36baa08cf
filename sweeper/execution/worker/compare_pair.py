"""The pair step: teacher and starting student on each other's answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.pair_probe import probe_pair
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.foundation.files import write_text_atomically
from sweeper.records import PreparationSpec
from sweeper.records.layout import JobPaths


def compare_pair(spec: PreparationSpec, progress: ProgressWriter) -> dict[str, Any]:
    """Diagnose the pair, keep a few of the answers for reading, and return the outcome's part."""
    assert spec.pair is not None
    progress.phase("read the data")
    found = probe_pair(read_training_data(spec.origin), spec.place, spec.pair, progress.phase)
    names = ("prompt", "student", "teacher")
    rows = found.texts[: spec.origin.evaluation.samples]
    lines = (json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in rows)
    files = JobPaths(Path(spec.place.directory))
    write_text_atomically(files.samples, "".join(f"{line}\n" for line in lines))
    return {"pair": found.diagnosis}
