"""Nothing in the package reads a pickle: the sources say so, and planted files prove it."""

from __future__ import annotations

import ast
import contextlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import sweeper
from sweeper.config.data import DataConfig, DatasetConfig
from sweeper.config.preparation import TeacherOutputsConfig, WarmStartConfig
from sweeper.config.settings import TrainingConfig
from sweeper.distillation.data.examples import TokenSequence
from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.start import starting_student
from sweeper.distillation.teacher import hidden_states, kl_probe, outputs
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.foundation.files import read_json_lines
from sweeper.records import Resources
from sweeper.records.layout import StudyPaths
from sweeper.records.outcome_files import read_outcome
from tests.support.training_jobs import make_study_inputs

SOURCES = sorted(Path(sweeper.__file__).parent.rglob("*.py"))
UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
READERS = {"read_pickle", "Unpickler", "load_pickle"}


def offences(source: str) -> Iterator[str]:
    """What in ``source`` reads pickles, or could be made to."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").partition(".")[0], *(a.name for a in node.names)}
        else:
            names = set()
        for name in sorted(names & (UNPICKLERS | READERS)):
            yield f"line {node.lineno}: imports {name}"
        if isinstance(node, ast.Attribute) and node.attr in READERS:
            yield f"line {node.lineno}: uses {node.attr}"
        if isinstance(node, ast.Name) and node.id in ("eval", "exec"):
            yield f"line {node.lineno}: uses {node.id}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            on = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            if (on, node.func.attr) == ("torch", "load") and given.get("weights_only") is not True:
                yield f"line {node.lineno}: torch.load without weights_only=True"
            if given.get("allow_pickle", False) is not False:
                yield f"line {node.lineno}: allow_pickle"
            if given.get("weights_only", True) is not True:
                yield f"line {node.lineno}: weights_only is not True"


def test_no_module_reads_pickles() -> None:
    found = {path.name: list(offences(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import numpy, dill as d",
        "from joblib import load",
        "from pandas import read_pickle",
        "pandas.read_pickle(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "torch.load(x, weights_only=sure)",
        "numpy.load(x, allow_pickle=True)",
        "load(x).load(y, weights_only=False)",
        "eval(x)",
    ],
)
def test_what_would_be_found(source: str) -> None:
    assert list(offences(source))


def test_what_is_allowed() -> None:
    assert list(offences("torch.load(x, weights_only=True); numpy.load(x); model.eval()")) == []


def test_the_scan_sees_the_whole_package() -> None:
    assert len(SOURCES) > 60
    assert {"coordinator.py", "loading.py", "process.py", "cache.py"} <= {
        path.name for path in SOURCES
    }


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.mark,))


def _fill(folder: Path) -> None:
    """Use every kind of cache entry: build it, or read what is there."""
    inputs = make_study_inputs(
        folder,
        warm_start=WarmStartConfig(method="sft", max_steps=1),
        training=TrainingConfig(max_steps=1, max_length=96, per_device_train_batch_size=2),
        teacher_outputs=TeacherOutputsConfig(max_new_tokens=8),
        data=DataConfig(train=DatasetConfig(path="builtin/addition", limit=4)),
        teacher_states_gib=1.0,
    )
    resources = Resources(directory=str(folder), device="cpu", threads=1)
    training_data = read_training_data(inputs)
    model = load_model(inputs.teacher, "cpu")
    teacher = SharedTeacher(inputs, inputs.teacher, resources, model)
    steps: list[Callable[[], object]] = [
        lambda: training_data.tokens(96),
        lambda: outputs.get_or_compute(training_data, teacher),
        lambda: hidden_states.get_or_compute(
            teacher, tuple(TokenSequence((5, 6), (7, 8)) for _ in range(2))
        ),
        lambda: kl_probe.read(kl_probe.prepare(training_data, teacher, ["1+2?"])),
        lambda: starting_student(training_data, resources),
    ]
    for step in steps:
        # Damaged entries may be refused in any way; what matters is what runs.
        with contextlib.suppress(Exception):
            step()


def test_a_pickle_in_place_of_each_file_of_the_cache(tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    _fill(tmp_path)
    kinds = {path.name for path in (tmp_path / "cache").iterdir()}
    assert kinds >= {"tokens", "teacher_outputs", "teacher_states", "held_out", "warm_starts"}
    files = [p for p in (tmp_path / "cache").glob("*/[!.]*/**/*") if p.is_file()]
    assert len(files) > 10
    for path in files:
        path.write_bytes(pickle.dumps(Bomb(mark)).ljust(path.stat().st_size, b"\0"))
    _fill(tmp_path)
    assert not mark.exists()
    for path in files:
        torch.save({"bomb": Bomb(mark)}, path)
    _fill(tmp_path)
    assert not mark.exists()


def test_a_pickle_in_place_of_each_record(tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    files = StudyPaths(tmp_path, "s").trial("gkd", 0)
    files.directory.mkdir(parents=True)
    for path in (files.outcome, files.spec, files.progress, files.lost):
        path.write_bytes(pickle.dumps(Bomb(mark)))
    assert read_outcome(files) is None
    assert read_json_lines(files.progress)[0] == []
    assert not mark.exists()
