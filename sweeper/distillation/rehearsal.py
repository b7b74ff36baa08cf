"""What trainings are made of, built without weights: what cannot be is found before any trial."""

from __future__ import annotations

from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.config.rollouts import RolloutEngine
from sweeper.distillation import trainers
from sweeper.distillation.data.compatibility import token_ids
from sweeper.distillation.models.adapters import add_adapter
from sweeper.distillation.models.loading import without_weights
from sweeper.distillation.sampling.continuous import why_not
from sweeper.distillation.sharding import layers_of
from sweeper.foundation.errors import BadInputError
from sweeper.records import Rehearsal


def rehearse(
    trial: Rehearsal,
    student: StudentConfig,
    *,
    device: str,
    directory: str,
    elsewhere: bool = False,
) -> None:
    """Build the arguments and the adapter of a training.

    Args:
        trial: Settings of the training.
        student: Student of the study, by its directory.
        device: Torch device of trials.
        directory: Directory that a trainer may write to.
        elsewhere: True if trials run on other devices, which are not known.

    Raises:
        BadInputError: The training would end with it.
    """
    if trial.settings.fp16 and device == "cpu" and not elsewhere:
        raise BadInputError("expected fp16: false on a CPU, which trains in float32 or bfloat16")
    if device == "cpu" and not elsewhere and _is_dora_on_int8(trial, student):
        raise BadInputError(
            "expected use_dora: false, or int4: PEFT's DoRA on a CPU loses the scales of int8"
        )
    _check_top_k(trial, student)
    try:
        trainers.arguments(
            trial.method, trial.settings, output_dir=directory, device=device, seed=0
        )
    except (ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInputError(f"the libraries refuse the settings: {reason}") from error
    if trial.lora and student.lora is not None:
        add_adapter(without_weights(student), student.lora, trial.lora, seed=0)


def _check_top_k(trial: Rehearsal, student: StudentConfig) -> None:
    """Check that the vocabulary has the tokens that a training reads of the teacher.

    Raises:
        BadInputError: It has fewer.
    """
    key, settings = "teacher_top_k", trial.settings
    # Rehearsals change one setting at a time, so the other need not be top_k here.
    if not trainers.uses_teacher(trial.method) or (
        settings.teacher_signal != "top_k" and key not in trial.key
    ):
        return
    if settings.teacher_top_k > (tokens := token_ids(student)):
        place = trial.key if key in trial.key else (*trial.key[:2], "settings", key)
        message = f"expected at most {tokens:,}, the tokens that student and teacher have in common"
        raise BadInputError(f"{message}, found {settings.teacher_top_k:,}", place)


def _is_dora_on_int8(trial: Rehearsal, student: StudentConfig) -> bool:
    if student.lora is None or not trial.lora.get("use_dora", student.lora.use_dora):
        return False
    given = student.init_kwargs.get("quantization_config")
    written = isinstance(given, dict) and bool(given.get("load_in_8bit"))
    return student.quantization == "int8" or written


def check_engine(engine: RolloutEngine, student: StudentConfig) -> None:
    """Check that the engine of rollouts can run the student, as far as its configuration shows.

    Raises:
        BadInputError: It cannot.
    """
    if engine == "transformers" and (reason := why_not(without_weights(student))):
        raise BadInputError(
            "expected auto, sweeper or vllm: transformers' continuous batching cannot run"
            f" {student.model} ({reason})"
        )


def check_sharding(model: ModelConfig, key: str) -> None:
    """Find the layers of a model that ``compute.<key>`` divides.

    Raises:
        BadInputError: As ``layers_of``.
    """
    if model.quantization is not None:
        message = f"expected false: the weights of {model.model} are quantized"
        raise BadInputError(message, ("compute", key))
    layers_of(without_weights(model), key)
