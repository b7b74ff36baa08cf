"""A study file and a suite with a value of every type, to be damaged."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML

STUDY: dict[str, Any] = {
    "study": "fuzzed",
    "seed": 1,
    "trials": 3,
    "teacher": {"model": "builtin/adder-teacher", "dtype": "float32", "init_kwargs": {"a": 1}},
    "student": {
        "model": "builtin/adder-student",
        "lora": {"r": 4, "target_modules": ["q"]},
        "keep_layers": [0, 1],
    },
    "warm_start": {"method": "sft", "max_steps": 5},
    "data": {"train": {"path": "builtin/addition", "columns": {"prompt": "q", "completion": "a"}}},
    "training": {
        "max_steps": 4,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "polynomial",
        "lr_scheduler_kwargs": {"power": 2.0},
        "extra": {"neftune_noise_alpha": 1.0},
    },
    "arms": {
        "gkd": {
            "settings": {"max_new_tokens": 8, "lora.r": 2, "extra.neftune_noise_alpha": 1},
            "search": {
                "lmbda": {"type": "categorical", "choices": [0.0, 0.5]},
                "beta": {"type": "float", "low": 0.1, "high": 0.9, "step": 0.1},
                "max_steps": {"type": "int", "low": 1, "high": 8, "log": True},
            },
            "start_with": [{"lmbda": 0.5, "beta": 0.5}, {"study": "pilot", "best": 2}],
        },
        "sft": {"trials": 2},
    },
    "sampler": {"type": "grid", "startup_trials": 2},
    "evaluation": {"selection": "selection.yaml"},
    "compute": {"device": "cpu", "workers": 2},
}
SUITE = "suite: s\ntasks: [{task: addition, documents: [0, 5], weight: 2.0}]\n"


def as_yaml(values: Any) -> str:
    from io import StringIO

    stream = StringIO()
    YAML(typ="safe", pure=True).dump(values, stream)
    return stream.getvalue()


TEXT = as_yaml(STUDY)
