"""The data step's look at models: files, tokenizers, and what trainings make of them."""

from __future__ import annotations

import traceback
from importlib.util import find_spec
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from sweeper.config.attention import attention_problem, precisions
from sweeper.config.base import Scalar
from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.config.optimisation import BITSANDBYTES
from sweeper.config.remote_server import RemoteServer
from sweeper.distillation.data.chat_templates import writes_date
from sweeper.distillation.data.compatibility import aligned, template_note, token_ids
from sweeper.distillation.data.examples import render_prompt
from sweeper.distillation.data.left_out import left_out
from sweeper.distillation.data.rows import RefusedRows, placed
from sweeper.distillation.data.training_data import (
    check_teacher,
    own_teacher,
    student_training_data,
    teacher_tokenizer,
    unpack_model,
)
from sweeper.distillation.memory_shape import shapes_of, weights_dtype
from sweeper.distillation.models.adapters import check_adapter
from sweeper.distillation.models.answer_ends import turn_end_ids
from sweeper.distillation.models.loadable import (
    check_loadable,
    default_attention,
    published_settings,
)
from sweeper.distillation.models.loading import read_config
from sweeper.distillation.rehearsal import check_engine, check_sharding, rehearse
from sweeper.execution.worker.findings import Findings
from sweeper.foundation.errors import BadInputError, blaming
from sweeper.records import (
    TokenizerSummary,
)
from sweeper.serving.client import read_key


def check_optimisers(findings: Findings) -> None:
    """Check that the package of each optimiser is installed where trials run."""
    everywhere = findings.spec.origin.training.optim
    if find_spec("bitsandbytes") is not None:
        return
    needed = {
        (("training", "optim") if name == everywhere else ("arms", arm)): name
        for arm, names in findings.spec.optimisers.items()
        for name in names
        if name in BITSANDBYTES
    }
    for key, name in needed.items():
        with findings.noting(*key):
            raise BadInputError(
                f"{name} needs bitsandbytes, which is not installed:"
                " pip install 'sweeper[quantization]'"
            )


def read_models(findings: Findings) -> None:
    """Read both models' configurations and tokenizers; check that these fit together."""
    given = findings.spec.origin
    cache = Path(given.cache)
    teacher = student = None
    with findings.noting("teacher"):
        teacher = unpack_model("teacher", given.teacher, cache, given.model_folders)
    with findings.noting("student"):
        student = unpack_model("student", given.student, cache, given.model_folders)
        check_adapter(student, warm_start=given.warm_start is not None)
    with findings.noting("teacher", "server"):
        if isinstance(given.teacher.server, RemoteServer):
            read_key(given.teacher.server)
    for role, model in (("teacher", teacher), ("student", student)):
        if model is None or model.server is not None:
            continue
        with findings.noting(role, "init_kwargs", "attn_implementation"):
            if default := _check_attention(findings, model):
                findings.attention[role] = default
        if not any(p.key[:2] == (role, "init_kwargs") for p in findings.problems):
            with findings.noting(role, "model"):
                findings.note(check_loadable(model, elsewhere=findings.spec.elsewhere))
        if settings := published_settings(model):
            findings.generation[role] = settings
    if teacher is not None and student is not None:
        with findings.noting("student", "vocab_size"):
            if teacher.has_tokenizer():
                teacher, student = aligned(teacher, student)
            findings.origin = given.model_copy(update={"teacher": teacher, "student": student})
    if student is None:
        return
    with findings.noting("student", "model"):
        ours = findings.origin or given.model_copy(update={"student": student})
        findings.material = student_training_data(ours, findings.examples)
    if findings.material is None or findings.origin is None:
        return
    tokenizer, origin = findings.material.tokenizer, findings.origin
    with findings.noting("teacher", "model"):
        check_teacher(origin, origin.teacher, tokenizer)
        note = None
        if origin.data.format != "plain" and origin.teacher.has_tokenizer():
            names = (given.teacher.model, given.student.model)
            theirs = teacher_tokenizer(origin, origin.teacher)
            own = origin.teacher.chat_template_kwargs is not None
            if own:
                _check_own_template(findings, theirs)
            note = template_note(theirs, tokenizer, names, origin.data.system_prompt, own=own)
        findings.tokenizer = TokenizerSummary(
            tokens=len(tokenizer.get_vocab()),
            logits=token_ids(origin.student),
            chat=findings.material.chat,
            template_note=note,
            ends=tuple(
                str(tokenizer.convert_ids_to_tokens(token))
                for token in sorted(turn_end_ids(tokenizer))
            ),
            date=origin.data.date if writes_date(tokenizer) else None,
        )


def _check_own_template(findings: Findings, theirs: PreTrainedTokenizerBase) -> None:
    """Check what a teacher's own template makes of the prompts, which it answers in it."""
    examples = findings.examples or ()
    with blaming("teacher", "chat_template_kwargs"):
        refused = RefusedRows()
        for number, example in enumerate(examples, start=1):
            place = example.where(number)
            with refused.noting(place), placed(place):
                render_prompt(example, theirs)
        refused.raise_if_any(len(examples))
        if findings.spec.needs_teacher_outputs:
            lost = left_out(examples, theirs, references=False, whose="the teacher's")
            findings.left_out = tuple(dict.fromkeys([*findings.left_out, *lost]))


def _check_attention(findings: Findings, model: ModelConfig) -> str | None:
    """Check a model's attention in every phase, with the type that its weights are stored in.

    Returns:
        The attention that it has by default, where it is known.
    """
    name = model.init_kwargs.get("attn_implementation")
    training, device = findings.spec.origin.training, findings.spec.place.device
    student = isinstance(model, StudentConfig)
    autocast = "bfloat16" if training.bf16 else "float16" if training.fp16 else None
    weights = weights_dtype(model, read_config(model), device)
    phases = precisions(
        str(weights).removeprefix("torch."),
        student=student,
        autocast=autocast,
        scoring=findings.spec.origin.evaluation.dtype,
    )
    if message := attention_problem(name, phases, device, student=student):
        raise BadInputError(message)
    return default_attention(model)


def rehearse_trainings(findings: Findings) -> None:
    """Build the parts of every kind of training; a wrong one is noted once for each arm."""
    spec, origin = findings.spec, findings.origin
    if origin is None:
        return
    with findings.noting("compute"):
        for key in spec.shards:
            check_sharding(origin.teacher if key == "shard_teacher" else origin.student, key)
    with findings.noting("rollouts", "engine"):
        check_engine(spec.origin.rollout_engine, origin.student)
    sound: list[ModelConfig] = [origin.teacher]
    for trial in spec.rehearsals:
        # One problem of an arm is enough.
        if any(problem.key[:2] == trial.key[:2] for problem in findings.problems):
            continue
        with findings.noting(*trial.key):
            rehearse(
                trial,
                origin.student,
                device=spec.place.device,
                directory=spec.place.directory,
                elsewhere=spec.elsewhere,
            )
            if (teacher := own_teacher(origin, trial.teacher)) not in sound:
                findings.note(check_loadable(teacher, elsewhere=spec.elsewhere))
                sound.append(teacher)


def read_own_teachers(findings: Findings) -> None:
    """Check the teachers that arms have instead of the study's."""
    if findings.material is None or findings.origin is None:
        return
    spec = findings.spec
    for arm in dict.fromkeys([*spec.own_teachers, *spec.own_attentions]):
        attentions = spec.own_attentions.get(arm, ())
        ways = [{"init_kwargs.attn_implementation": name} for name in attentions] or [{}]
        named: list[dict[str, Scalar]] = [{"model": m} for m in spec.own_teachers.get(arm, ())]
        for values in named or [{}]:
            with findings.noting("arms", arm):
                for way in ways:
                    _check_attention(findings, own_teacher(findings.origin, {**values, **way}))
                if not values:
                    continue
                teacher = own_teacher(findings.origin, values)
                check_teacher(findings.origin, teacher, findings.material.tokenizer)
                own = teacher.chat_template_kwargs is not None
                if own and findings.origin.data.format != "plain":
                    _check_own_template(findings, teacher_tokenizer(findings.origin, teacher))


def find_shapes(findings: Findings) -> None:
    """Find how large the models are; what is wrong with one is noted above."""
    if findings.origin is not None:
        spec = findings.spec
        try:
            findings.shapes = shapes_of(findings.origin, spec.shapes, spec.place.device)
        except Exception:  # whatever a configuration's own code raises
            traceback.print_exc()
