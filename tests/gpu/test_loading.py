"""What is loaded to a GPU is what is loaded to a CPU, and its memory is set up as a trial's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.models import ModelConfig
from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.models.lm_head import LMHead, head_of
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.teacher import kl_probe
from sweeper.distillation.teacher.head_alone import HeadTraits
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.execution.worker.gpu_memory import EXPANDABLE
from sweeper.records import Resources
from tests.support.layered_models import ARCHITECTURES, write
from tests.support.tiny_models import make_tiny
from tests.support.training_jobs import make_study_inputs

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

DEVICE = "cuda:0"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("keep", [None, 3])
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_weights_are_those_of_the_cpu(
    tmp_path: Path, architecture: str, keep: int | None, dtype: str
) -> None:
    config = ModelConfig(model=write(architecture, tmp_path), keep_layers=keep, dtype=dtype)
    here, there = load_model(config, DEVICE), load_model(config, "cpu")
    assert {weights.device for weights in here.parameters()} == {torch.device(DEVICE)}
    assert {buffer.device.type for buffer in here.buffers()} <= {"cuda"}
    theirs = dict(there.named_parameters())
    whole = load_model(config.model_copy(update={"keep_layers": None}), DEVICE)
    assert {weights.dtype for weights in here.parameters()} == {
        weights.dtype for weights in whole.parameters()
    }
    for name, weights in here.named_parameters():
        assert torch.equal(weights.cpu(), theirs[name].to(weights.dtype)), name
    # Nothing stands between the model and its own forward pass.
    assert not hasattr(here, "hf_device_map") and "forward" not in vars(here)


def test_a_head_alone_is_that_of_the_model(tmp_path: Path) -> None:
    config = ModelConfig(model=make_tiny(tmp_path), dtype="bfloat16")
    whole = LMHead.of(load_model(config, DEVICE), trained=False)
    traits = HeadTraits.of(whole)
    assert traits is not None
    alone = traits.load(config, DEVICE)
    assert alone is not None
    states = torch.randn(5, traits.shape[1], device=DEVICE).bfloat16()
    with torch.no_grad():
        assert torch.equal(alone.logits(states), whole.logits(states))


def test_the_probe_leaves_no_second_head_behind(tmp_path: Path) -> None:
    inputs = make_study_inputs(tmp_path)
    resources = Resources(directory=str(tmp_path), device=DEVICE, threads=1)
    teacher = SharedTeacher(inputs, inputs.teacher, resources)
    directory = kl_probe.prepare(read_training_data(inputs), teacher, ["1+2?", "3+4?"])
    probe = kl_probe.read(directory)
    assert probe is not None
    student: Any = load_model(inputs.student, DEVICE)
    alone = probe.divergence(student)
    before = torch.cuda.memory_allocated(DEVICE)
    assert probe.divergence(student) == alone
    assert torch.cuda.memory_allocated(DEVICE) == before
    loaded: Any = teacher.load()
    probe.lend(head_of(loaded))
    assert probe._head_on(torch.device(DEVICE)) is head_of(loaded)
    assert probe.divergence(student) == pytest.approx(alone, rel=1e-5)


def test_segments_grow() -> None:
    code = (
        "import torch\n"
        "setter = getattr(torch._C, '_accelerator_setAllocatorSettings', None)\n"
        f"(setter or torch.cuda.memory._set_allocator_settings)({EXPANDABLE!r})\n"
        "kept = torch.zeros(2**24, device='cuda:0')\n"
        "segments = torch.cuda.memory_snapshot()\n"
        "assert segments and all(one['is_expandable'] for one in segments), segments\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
