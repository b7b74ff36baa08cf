"""Jobs that end in a moment, some of them as a broken GPU would end them.

The jobs run in real processes of the local executor, on devices that only have the names of GPUs.
What a job does stands in a plan, a JSON file next to the study: rules of which the first that fits
it is followed. A job that no rule is for completes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from sweeper.execution.executor import Spec
from sweeper.execution.worker import run as boundary
from sweeper.foundation.files import append_json_line
from sweeper.records import Cost, DataSummary, Outcome, Scores, TaskScore, TrialSpec

ASSERTION = (
    "../aten/src/ATen/native/cuda/Indexing.cu:1146: indexSelectLargeIndex: block: [0,0,0], thread:"
    " [{},0,0] Assertion `srcIndex < srcSelectDimSize` failed."
)


def name_of(spec: Spec) -> str:
    """The job's name in a plan."""
    if not isinstance(spec, TrialSpec):
        return spec.step
    return f"{'final ' if spec.final else ''}{spec.arm} {spec.number}"


def plan_file(spec: Spec) -> Path:
    return Path(spec.origin.cache).parent / "plan.json"


def run(spec: Spec) -> Outcome:
    """Do the job at the boundary at which real jobs end."""

    def step(spec: Spec, reporter: Any) -> dict[str, Any]:
        follow(spec)
        return result(spec)

    boundary._run_step = step  # type: ignore[assignment]
    return boundary.run_job(spec)


def follow(spec: Spec) -> None:
    """Do as the plan says."""
    gpu = os.environ["CUDA_VISIBLE_DEVICES"]
    plan = plan_file(spec)
    append_json_line(plan.with_name("done.jsonl"), {"job": name_of(spec), "gpu": gpu})
    for rule in json.loads(plan.read_text()) if plan.exists() else ():
        fits = rule.get("job", name_of(spec)) == name_of(spec)
        attempts = rule.get("attempts", [spec.attempt])
        if not (fits and rule.get("gpu", gpu) == gpu and spec.attempt in attempts):
            continue
        if "seconds" in rule:
            time.sleep(rule["seconds"])
            return
        for line in rule.get("prints", ()):
            print(line, flush=True)
        if "signal" in rule:
            sys.stdout.flush()
            os.kill(os.getpid(), rule["signal"])
            time.sleep(60)
        if "code" in rule:
            os._exit(rule["code"])
        raise RuntimeError(rule["text"])


def result(spec: Spec) -> dict[str, Any]:
    """What a job that completes has found."""
    if not isinstance(spec, TrialSpec) and spec.step == "data":
        data = DataSummary(
            rows=24,
            used=24,
            fingerprint="ab" * 32,
            source="builtin/addition",
            prompt_tokens=9.0,
            completion_tokens=4.0,
            chat=False,
        )
        return {"data": data}
    task = TaskScore(
        task="addition",
        metric="exact_match",
        score=0.5,
        stderr=0.1,
        documents=12,
        higher_is_better=True,
        weight=1.0,
    )
    suite = spec.suite
    scores = Scores(
        suite=suite.config.suite,
        suite_hash=suite.content_hash,
        score=0.5,
        stderr=0.1,
        higher_is_better=True,
        tasks=(task,),
        seconds=0.1,
    )
    return {"scores": scores, "cost": Cost(steps=1)}
