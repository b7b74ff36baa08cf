"""What is started: vLLM's command line, its environment, and what makes two servers the same."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.models import ModelConfig
from sweeper.config.started_server import StartedServer
from sweeper.serving import in_server
from sweeper.serving.launch import (
    PYTHON_VARIABLE,
    Launch,
    find_vllm,
    server_python,
    vllm_launch,
)
from tests.support.served_models import FAKE_VLLM


def launch(
    devices: tuple[str, ...] = ("cpu",),
    content: str = "hash",
    model: dict[str, Any] | None = None,
    max_logprobs: int | None = None,
    **keys: Any,
) -> Launch:
    return vllm_launch(
        "teacher",
        ModelConfig.model_validate({"model": "owner/Big-7B", **(model or {})}),
        StartedServer.model_validate({"start": "vllm", **keys}),
        source="/models/big",
        content=content,
        version="0.30.0",
        devices=devices,
        max_logprobs=max_logprobs,
    )


def option(command: tuple[str, ...], name: str) -> str:
    return command[command.index(f"--{name}") + 1]


def test_on_a_cpu_weights_are_float32_and_nothing_is_compiled() -> None:
    command = launch().command
    assert command[1:5] == ("-m", "vllm.entrypoints.openai.api_server", "--model", "/models/big")
    assert option(command, "dtype") == "float32"
    assert "--enforce-eager" in command
    assert option(command, "kv-cache-memory-bytes") == str(2**30)
    assert "--gpu-memory-utilization" not in command


def test_on_gpus_the_model_is_divided_and_has_its_share_of_the_memory() -> None:
    command = launch(("cuda:2", "cuda:3")).command
    assert option(command, "dtype") == "auto"
    assert option(command, "tensor-parallel-size") == "2"
    assert option(command, "gpu-memory-utilization") == "0.9"
    given = launch(("cuda:0",), gpu_memory=0.3).command
    assert option(given, "gpu-memory-utilization") == "0.3"


def test_it_reports_as_many_tokens_as_trials_ask_for() -> None:
    assert "--max-logprobs" not in launch().command
    assert option(launch(max_logprobs=64).command, "max-logprobs") == "64"
    more = launch(max_logprobs=64, options={"max_logprobs": -1}).command
    assert option(more, "max-logprobs") == "-1"
    assert launch(max_logprobs=64).serves != launch(max_logprobs=32).serves


def test_the_server_sees_its_own_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch(("cuda:1",)).environment["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-abc")
    assert launch(("cuda:1",)).environment["CUDA_VISIBLE_DEVICES"] == "GPU-abc"
    assert launch().environment["CUDA_VISIBLE_DEVICES"] == ""


def test_it_listens_on_this_machine_only_and_the_model_decides_no_sampling() -> None:
    command = launch().command
    assert option(command, "host") == "127.0.0.1"
    assert option(command, "generation-config") == "vllm"


def test_the_teachers_own_keys_and_further_options_reach_it() -> None:
    model = {"revision": "abc", "dtype": "bfloat16", "trust_remote_code": True}
    options = {
        "max-num-seqs": 8,
        "enable_prefix_caching": False,
        "enforce_eager": True,
        "speculative_config": {"method": "ngram"},
        "allowed_origins": ["a", "b"],
    }
    command = launch(model=model, max_length=512, options=options).command
    assert option(command, "revision") == option(command, "tokenizer-revision") == "abc"
    assert option(command, "dtype") == "bfloat16"
    assert "--trust-remote-code" in command
    assert option(command, "max-model-len") == "512"
    assert option(command, "max-num-seqs") == "8"
    assert "--no-enable-prefix-caching" in command
    assert command.count("--enforce-eager") == 1
    assert option(command, "speculative-config") == '{"method": "ngram"}'
    at = command.index("--allowed-origins")
    assert command[at + 1 : at + 3] == ("a", "b")


@pytest.mark.parametrize(
    "changes",
    [
        {"content": "other"},
        {"max_length": 9},
        {"options": {"max_num_seqs": 8}},
        {"model": {"dtype": "bfloat16"}},
        {"devices": ("cuda:0",)},
    ],
)
def test_two_servers_are_the_same_only_if_they_answer_the_same(changes: dict[str, Any]) -> None:
    assert launch().serves == launch().serves
    assert launch(start_timeout=5.0).serves == launch().serves
    assert launch(**changes).serves != launch().serves
    assert launch(**changes).name != launch().name
    assert launch().name.startswith("Big-7B-")


def test_variables_that_open_the_server_or_would_mislead_it_do_not_reach_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("VLLM_SERVER_DEV_MODE", "VLLM_API_KEY", "MASTER_ADDR", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    environment = launch().environment
    assert not {"VLLM_SERVER_DEV_MODE", "VLLM_API_KEY", "MASTER_ADDR", "WORLD_SIZE"} & {
        *environment
    }
    assert environment["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert launch().environment_with("secret")["VLLM_API_KEY"] == "secret"
    assert "secret" not in launch().command


def test_another_interpreter_finds_its_own_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    monkeypatch.setenv("PYTHONPATH", "/packages/of/this/one")
    own = str(Path(in_server.__file__).parent)
    assert launch().environment["PYTHONPATH"] == f"{own}:/packages/of/this/one"
    assert launch(python="/opt/vllm/bin/python").environment["PYTHONPATH"] == own


def test_the_interpreter_is_named_by_the_study_the_environment_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SWEEPER_VLLM_PYTHON", raising=False)
    assert server_python(StartedServer(start="vllm")) == sys.executable
    monkeypatch.setenv("SWEEPER_VLLM_PYTHON", "/opt/python")
    assert server_python(StartedServer(start="vllm")) == "/opt/python"
    assert server_python(StartedServer(start="vllm", python="/own")) == "/own"


def test_vllm_is_looked_for_in_the_interpreter_that_runs_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version, problem = find_vllm(sys.executable)
    assert version == ""
    assert "pip install 'sweeper[vllm]'" in problem
    assert "SWEEPER_VLLM_PYTHON" in problem
    monkeypatch.setenv("PYTHONPATH", str(FAKE_VLLM))
    assert find_vllm(sys.executable) == ("of an unknown version", "")
    assert "cannot be run" in find_vllm(str(tmp_path / "python"))[1]
    assert "ends with" in find_vllm("/bin/true")[1]
