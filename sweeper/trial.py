"""What a worker process does: one job, from its spec to its outcome.

A job is a pure function of its spec and the files that it names by content. It knows neither Optuna
nor MLflow.
"""

from __future__ import annotations

import json
import math
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sweeper import disk
from sweeper.cache import is_whole, noting
from sweeper.config.models import ModelConfig
from sweeper.config.settings import resolve
from sweeper.distillation import checkpoints, held_out, job, teacher_outputs
from sweeper.distillation.data import prompt_hash
from sweeper.distillation.held_out import HeldOut
from sweeper.distillation.material import (
    Material,
    check_teacher,
    read_material,
    unpack_models,
)
from sweeper.distillation.meter import Meter, PauseCallback
from sweeper.distillation.models import end_token_ids, load_model, unpack
from sweeper.distillation.trainers import argument_names
from sweeper.errors import BadInputError, DivergedError, TrialError, blaming
from sweeper.evaluation.scoring import Evaluation, score
from sweeper.evaluation.tasks import load_tasks, prompts
from sweeper.paths import JobPaths, write_text_atomically
from sweeper.records import (
    INTERIM_PHASE,
    Cost,
    DataSummary,
    Failure,
    Interim,
    Outcome,
    PreparationSpec,
    Scores,
    SuiteSpec,
    TrialSpec,
    derive_seed,
)
from sweeper.reporter import Reporter
from sweeper.secrets import redact, redact_credentials, secrets_in, secrets_of_environment
from sweeper.versions import package_versions

_ANSWER_SECONDS = 0.02
"""Between two looks at whether the coordinator has answered."""

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""What torch says, by device and allocator."""

_NO_DISTRIBUTION = "probability tensor contains either `inf`, `nan`"
"""What torch says when the stock trainer samples from a model that has diverged."""


def run(spec: TrialSpec | PreparationSpec) -> Outcome:
    """Do the job and say how it ended; failure is a value, and this is where it is caught."""
    paths = JobPaths(Path(spec.place.directory))
    reporter = Reporter(paths)
    started = time.time()
    common: dict[str, Any] = {
        "attempt": spec.attempt,
        "started": started,
        "host": socket.gethostname(),
        "device": spec.place.device,
        "versions": package_versions(),
    }
    if isinstance(spec, TrialSpec):
        common["earlier_seconds"] = spec.earlier_seconds
    try:
        spec = spec.model_copy(update={"origin": unpack_models(spec.origin)})
        if isinstance(spec, TrialSpec):
            found = _trial(spec, reporter)
        else:
            with noting() as entries:
                found = _prepare(spec, reporter)
            found["cached"] = tuple(sorted(map(str, entries)))
    except Exception as error:  # the one boundary: whatever happened becomes an outcome
        failure = _without_secrets(_failure(error, reporter.phase_name, _places(spec)), spec)
        with suppress(OSError):  # the log's disk may be full
            print(failure.details, file=sys.stderr)
        return Outcome(
            state="failed",
            failure=failure,
            finished=time.time(),
            cost=reporter.cost(time.time() - started),
            curve=reporter.point,
            **common,
        )
    finished = time.time()
    cost = found.pop("cost", Cost())
    seconds = finished - started + reporter.seconds_before
    cost = cost.model_copy(update={"device_seconds": seconds})
    found.setdefault("state", "completed")
    return Outcome(finished=finished, cost=cost, **found, **common)


def _places(spec: TrialSpec | PreparationSpec) -> tuple[Path, ...]:
    """Where a job writes."""
    return Path(spec.place.directory), Path(spec.origin.cache), Path(tempfile.gettempdir())


def _failure(error: Exception, phase: str, places: tuple[Path, ...]) -> Failure:
    text = str(error).strip() or type(error).__name__
    message = text.splitlines()[0]
    if disk.is_full(error, *places):
        kind = "full_disk"
        message = disk.explain(error, *places)
    elif isinstance(error, TrialError):
        kind = error.kind
    elif isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
        kind = "out_of_memory"
        message = f"while in phase {phase!r}: {message}"
    elif _NO_DISTRIBUTION in text:
        kind = "diverged"
        message = f"while in phase {phase!r}: {message}"
    else:
        kind = "bug"
        message = f"while in phase {phase!r}: {type(error).__name__}: {message}"
    return Failure.model_validate(
        {
            "kind": kind,
            "message": message,
            "key": getattr(error, "key", ()),
            "details": traceback.format_exc(),
        }
    )


def _without_secrets(failure: Failure, spec: TrialSpec | PreparationSpec) -> Failure:
    known = secrets_in(spec) | secrets_of_environment()
    texts = {"message": failure.message, "details": failure.details}
    return failure.model_copy(
        update={name: redact_credentials(text, known) for name, text in texts.items()}
    )


def _trial(spec: TrialSpec, reporter: Reporter) -> dict[str, Any]:
    clock = Meter()
    with clock.timing("load"):
        reporter.phase("load")
        material = read_material(spec.origin)
        teacher = _teacher(spec)
        if teacher != spec.origin.teacher:
            check_teacher(spec.origin, teacher, material.tokenizer)
        fixed = _held_out(spec, material, reporter)
        student = job.starting_student(spec.origin, material, spec.place)
    pause = _Pause(spec, material, reporter, clock)
    reporter.phase("train", 0, spec.settings.max_steps)
    trained, meter = job.distil(
        spec.origin,
        material,
        spec.place,
        model=student,
        teacher=teacher,
        method=spec.method,
        settings=spec.settings,
        seed=spec.seed,
        lora=spec.lora,
        report=reporter.train,
        probe=fixed.divergence if fixed else None,
        pause=PauseCallback(pause.points, pause) if spec.interim else None,
        checkpoints=checkpoints.of_trial(spec, material, teacher, reporter),
    )
    if pause.pruned is not None:
        return {
            "state": "pruned",
            "interim": pause.pruned,
            "cost": _sum_of_parts(meter, clock),
            "curve": reporter.point,
            "model_parameters": _parameters(trained),
        }
    reporter.phase("evaluate")
    with clock.timing("evaluation"):
        evaluation = _score(spec, trained, material)
        _check_collapse(evaluation, spec.origin.evaluation.collapsed_score)
    return {
        "scores": evaluation,
        "cost": _sum_of_parts(meter, clock),
        "curve": reporter.point,
        "model_parameters": _parameters(trained),
    }


def _held_out(spec: TrialSpec, material: Material, reporter: Reporter) -> HeldOut | None:
    """The study's fixed sequences, made again if the cache was emptied since the preparation."""
    origin = spec.origin
    if origin.held_out is None:
        return None
    entry = Path(origin.held_out)
    if is_whole(entry):
        with suppress(Exception):
            fixed = held_out.read(entry)
            if is_whole(entry):
                return fixed
    reporter.phase("held-out sequences")
    seed = derive_seed(origin.seed, "teacher")
    asked = (text for leaf in load_tasks(spec.suite) for text, _ in prompts(leaf))
    made = held_out.prepare(
        material,
        list(asked),
        spec.place,
        lambda: load_model(origin.teacher, spec.place.device, seed=seed),
    )
    reporter.phase("load")
    return held_out.read(made)


def _sum_of_parts(meter: Meter, clock: Meter) -> Cost:
    """The training's cost, with the seconds of the parts around it."""
    cost = meter.cost()
    return cost.model_copy(update={"seconds": {**cost.seconds, **clock.cost().seconds}})


class _Pause:
    """Scores a student in the middle of its training, and waits for word whether it goes on."""

    def __init__(
        self, spec: TrialSpec, material: Material, reporter: Reporter, clock: Meter
    ) -> None:
        self._spec = spec
        self._material = material
        self._reporter = reporter
        self._clock = clock
        self.points = {point.step: point for point in spec.interim}
        self.pruned: Interim | None = None
        """The score after which the trial was told to end."""

    def __call__(self, step: int, model: Any) -> bool:
        point, longest = self.points[step], self._spec.settings.max_steps
        reporter = self._reporter
        reporter.phase(INTERIM_PHASE, step, longest)
        with self._clock.timing("evaluation"):
            found = _evaluate(self._spec, model, self._material, documents=point.documents)
        interim = Interim(index=point.index, score=found.scores.score, documents=found.signed)
        reporter.interim(point, longest, interim)
        if not self._goes_on(point.index):
            self.pruned = interim
            return False
        reporter.phase("train", step, longest)
        return True

    def _goes_on(self, index: int) -> bool:
        # The process ends with its coordinator, so an answer comes, or there is nobody to wait for.
        path = JobPaths(Path(self._spec.place.directory)).verdict
        while True:
            with suppress(OSError, ValueError):
                verdict = json.loads(path.read_text(encoding="utf-8"))
                if verdict["index"] == index:
                    return bool(verdict["goes_on"])
            time.sleep(_ANSWER_SECONDS)


def _teacher(spec: TrialSpec) -> ModelConfig:
    """The arm's teacher: the study's, with what the trial's settings say of it."""
    options = dict(spec.origin.teacher.init_kwargs)
    values = {}
    for name, value in spec.teacher.items():
        if name.startswith("init_kwargs."):
            options[name.removeprefix("init_kwargs.")] = value
        else:
            values[name] = value
    base = spec.origin.teacher.model_dump()
    teacher = ModelConfig.model_validate({**base, **values, "init_kwargs": options})
    return unpack(teacher, Path(spec.origin.cache))


def _prepare(spec: PreparationSpec, reporter: Reporter) -> dict[str, Any]:
    reporter.phase("read the data")
    material = read_material(spec.origin)
    if spec.step == "data":
        return {"data": _check_data(spec, material, reporter)}
    place, origin = spec.place, spec.origin
    if spec.step == "teacher":
        reporter.phase("load the teacher")
        model: Any = load_model(
            origin.teacher, place.device, seed=derive_seed(origin.seed, "teacher")
        )
    else:
        if origin.warm_start:
            reporter.phase("warm start", 0, origin.warm_start.max_steps)
        model = job.starting_student(origin, material, place, reporter.train)
    reporter.phase("score")
    found: dict[str, Any] = {"model_parameters": _parameters(model)}
    found["scores"] = _score(spec, model, material)
    if spec.step == "teacher":
        found |= _ask_teacher(spec, model, material, reporter)
    return found


def _ask_teacher(
    spec: PreparationSpec, model: Any, material: Material, reporter: Reporter
) -> dict[str, Any]:
    """Have everything of the teacher's that trials share in the cache."""
    origin, place = spec.origin, spec.place
    found: dict[str, Any] = {}
    if spec.needs_teacher_outputs:
        reporter.phase("teacher outputs", 0, len(material.examples))
        answers = teacher_outputs.obtain(
            material,
            origin.teacher,
            place,
            lambda done, total: reporter.phase("teacher outputs", done, total),
        )
        longest = origin.teacher_outputs.max_new_tokens
        ends = end_token_ids(model, material.tokenizer)
        cut = sum(len(answer) >= longest and answer[-1] not in ends for answer in answers)
        if cut:
            found["notes"] = (
                f"{cut} of the {len(answers)} answers for seqkd and seq_kd were cut at {longest}"
                " tokens (teacher_outputs.max_new_tokens)",
            )
    for own in spec.reads:
        reporter.phase("teacher states")
        settings = resolve(origin.training, {"lmbda": 0.0, "seq_kd": own})
        data = job.training_sequences(material, place, origin.teacher, "gkd", settings)
        job.stored_teacher_states(
            material,
            data,
            place,
            origin.teacher,
            settings,
            lambda: model,
            lambda done, total: reporter.phase("teacher states", done, total),
        )
    reporter.phase("held-out sequences")
    leaves = load_tasks(spec.suite, allow_code=origin.evaluation.allow_code_execution)
    asked = (text for leaf in leaves for text, _ in prompts(leaf))
    found["held_out"] = str(held_out.prepare(material, list(asked), place, lambda: model))
    return found


def _check_data(spec: PreparationSpec, material: Material, reporter: Reporter) -> DataSummary:
    for arm, (method, names) in spec.extra_arguments.items():
        for name in sorted(set(names) - argument_names(method)):
            everywhere = name in spec.origin.training.extra
            key = ("training", "extra", name) if everywhere else ("arms", arm)
            raise BadInputError(f"TRL's configuration for {method} has no argument {name!r}", key)
    length = spec.origin.training.max_length
    data = material.tokens(length)
    reporter.phase("check that no prompt is in two places")
    notes = list(data.notes)
    trained_on = [prompt_hash(example.prompt) for example in material.examples]
    repeated = len(trained_on) - len(set(trained_on))
    if repeated:
        notes.append(f"{repeated} prompts stand in the training data more than once")
    known, allow_code = set(trained_on), spec.origin.evaluation.allow_code_execution
    with blaming("evaluation", "selection"):
        selection = _check_overlap(spec.suite, known, "the training data", allow_code)
    if spec.test_suite is not None:
        with blaming("evaluation", "test"):
            _check_overlap(spec.test_suite, known, "the training data", allow_code)
            name = f"the suite {spec.suite.config.suite}"
            _check_overlap(spec.test_suite, selection, name, allow_code)
    lengths = [len(sequence.prompt) for sequence in data.sequences]
    answers = [len(sequence.completion or ()) for sequence in data.sequences]
    return DataSummary(
        rows=len(material.examples),
        used=len(data.sequences),
        fingerprint=material.fingerprint,
        source=redact(f"{spec.origin.data.train.path} ({spec.origin.data.train.split})"),
        local=bool(spec.origin.data_files) or spec.origin.data.train.path.startswith("builtin/"),
        prompt_tokens=sum(lengths) / len(lengths),
        completion_tokens=sum(answers) / len(answers),
        chat=material.chat,
        notes=tuple(notes),
    )


def _check_overlap(suite: SuiteSpec, known: set[str], where: str, allow_code: bool) -> set[str]:
    """The hashes of the suite's prompts.

    Raises:
        BadInputError: One of its documents asks what is in ``known``.
    """
    asked: set[str] = set()
    shared: list[str] = []
    for leaf in load_tasks(suite, allow_code=allow_code):
        for prompt, texts in prompts(leaf):
            asked.add(prompt_hash(prompt))
            if known & {prompt_hash(text) for text in texts}:
                shared.append(prompt)
    if shared:
        raise BadInputError(
            f"expected prompts of its own, but {len(shared)} of the suite {suite.config.suite} are"
            f" also in {where}, for example {shared[0]!r:.120}: a score on them would measure"
            " memory. Remove them, or use other documents."
        )
    return asked


def _score(spec: TrialSpec | PreparationSpec, model: Any, material: Material) -> Scores:
    found = _evaluate(spec, model, material, samples=spec.origin.evaluation.samples)
    _write(JobPaths(Path(spec.place.directory)), found)
    return found.scores


def _evaluate(
    spec: TrialSpec | PreparationSpec,
    model: Any,
    material: Material,
    *,
    documents: int | None = None,
    samples: int = 0,
) -> Evaluation:
    evaluation = spec.origin.evaluation
    found = score(
        model,
        material.tokenizer,
        spec.suite,
        batch_size=evaluation.batch_size,
        chat=material.chat,
        end_ids=end_token_ids(model, material.tokenizer),
        system_prompt=spec.origin.data.system_prompt,
        documents=documents,
        samples=samples,
        allow_code=evaluation.allow_code_execution,
    )
    for task in found.scores.tasks:
        if not math.isfinite(task.score) or not math.isfinite(task.stderr):
            raise DivergedError(f"The score of {task.task} is {task.score}: the model diverged.")
    return found


def _check_collapse(scores: Scores, limit: float | None) -> None:
    """Hold a trial to the study's own idea of a model that is broken.

    Raises:
        DivergedError: The score is ``limit`` or worse.
    """
    if limit is None:
        return
    if scores.score <= limit if scores.higher_is_better else scores.score >= limit:
        raise DivergedError(
            f"The score is {scores.score:.4g}, no better than evaluation.collapsed_score"
            f" ({limit:g}): the model collapsed."
        )


def _write(paths: JobPaths, evaluation: Evaluation) -> None:
    def lines(rows: Iterable[Any]) -> str:
        return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)

    write_text_atomically(paths.documents, lines(evaluation.documents))
    write_text_atomically(paths.samples, lines(evaluation.samples))


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
