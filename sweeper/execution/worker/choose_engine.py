"""The engines step: each candidate samples rollouts of the start, and the fastest is chosen."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from typing import Any

import torch

from sweeper.config.rollouts import RolloutEngine
from sweeper.distillation.data.training_data import TrainingData, read_training_data
from sweeper.distillation.models.adapters import add_adapter
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.sampling.continuous import why_not
from sweeper.distillation.sampling.engine_test import SampledWindow, run_engine
from sweeper.distillation.sampling.engines import engine_of
from sweeper.distillation.sampling.rollouts import way_of
from sweeper.distillation.start import starting_student
from sweeper.distillation.trainers import autocast_dtype
from sweeper.execution.worker.device_faults import device_fault
from sweeper.execution.worker.out_of_memory import release_memory
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.foundation.errors import BadInputError, DivergedError
from sweeper.records import EngineChoice, EngineRequest, EngineTest, PreparationSpec, seeds
from sweeper.records.logprob_diff import logprob_diff_limit

KEY = ("rollouts", "engine")
ENGINE_PHASE = "sample by "
"""Beginning of the phase in which an engine is tested; its name follows."""


def choose_engine(spec: PreparationSpec, progress: ProgressWriter) -> dict[str, Any]:
    """Test each engine with the study's start, and return the outcome's part.

    Raises:
        BadInputError: No engine passes.
        RuntimeError: A device failed in the test of an engine.
        DivergedError: The student's logits are not finite.
    """
    request, inputs = spec.engines, spec.origin
    assert request is not None
    progress.phase("read the data")
    data = read_training_data(inputs)
    progress.phase("load")
    model = starting_student(data, spec.place)
    if inputs.student.lora is not None:
        seed = seeds.adapter_seed(inputs.seed)
        model = add_adapter(model, inputs.student.lora, request.lora, seed)
    window = _window(data, request, model)
    tests = []
    for name in request.candidates:
        progress.phase(f"{ENGINE_PHASE}{name}")
        tests.append(_test(spec, request, name, window))
        print(tests[-1].model_dump_json(), flush=True)
    tests += [EngineTest(engine=name, problem=why) for name, why in request.left_out.items()]
    passed = [test for test in tests if test.problem is None]
    if not passed:
        reasons = "; ".join(f"{test.engine}: {test.problem}" for test in tests)
        raise BadInputError(f"expected an engine that can sample from the student ({reasons})", KEY)
    fastest = max(passed, key=lambda test: test.tokens_per_second or 0.0)
    choice = EngineChoice(chosen=fastest.engine, request=request, tests=tuple(tests))
    return {"engines": choice, "notes": (choice.told(), *_slow_way(window))}


def _slow_way(window: SampledWindow) -> tuple[str, ...]:
    """Return a note if the engine ``sweeper`` decodes the student more slowly than others."""
    device = next(window.model.parameters()).device
    way, why = way_of(window.model, max(map(len, window.prompts)) + window.max_new_tokens)
    if device.type != "cuda" or way == "static":
        return ()
    how = "model.generate" if way == "generate" else "a loop without CUDA graphs"
    return (f"the engine sweeper decodes the student by {how}: {why}",)


def _window(data: TrainingData, request: EngineRequest, model: Any) -> SampledWindow:
    """Draw prompts of the training data, and put together what a step samples of them."""
    inputs, settings = data.inputs, request.settings
    sequences = data.tokens(settings.max_length).sequences
    seed = seeds.rollout_seed(inputs.seed, 0)
    drawn = random.Random(seed).choices(sequences, k=request.prompts)
    device = next(model.parameters()).device
    dtype = autocast_dtype(settings)
    return SampledWindow(
        model=model,
        prompts=[list(sequence.prompt) for sequence in drawn],
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
        end_ids=end_token_ids(model, data.tokenizer),
        pad_id=int(data.tokenizer.pad_token_id),
        seed=seed,
        batch_size=request.batch_size,
        autocast=torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None),
    )


def _test(
    spec: PreparationSpec, request: EngineRequest, name: RolloutEngine, window: SampledWindow
) -> EngineTest:
    """Test one engine; one that fails is left out."""
    if (why := _UNFIT[name](spec, window)) is not None:
        return EngineTest(engine=name, problem=why)
    origin = spec.origin
    engine = engine_of(name, spec.place, origin.evaluation.dtype)
    try:
        limit = logprob_diff_limit(origin, request.settings, name)
        return run_engine(name, engine, window, limit=limit)
    except DivergedError:
        raise
    except Exception as error:  # of a library that the study can do without
        if spec.place.device.startswith("cuda") and device_fault(error) is not None:
            raise  # Nothing that this process asked of the device later would tell anything.
        traceback.print_exc()
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return EngineTest(engine=name, problem=f"it failed: {reason}")
    finally:
        release_memory()


def _no_server(spec: PreparationSpec, window: SampledWindow) -> str | None:
    return None if spec.place.served_student else "no server holds the student's weights"


_UNFIT: dict[RolloutEngine, Callable[[PreparationSpec, SampledWindow], str | None]] = {
    "sweeper": lambda spec, window: None,
    "transformers": lambda spec, window: why_not(window.model),
    "vllm": _no_server,
}
"""Functions that say why an engine need not be tried."""
