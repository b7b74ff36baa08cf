"""A server that sweeper starts for a model, and ends with the study."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sweeper.config.base import Duration, JsonMapping, PositiveInt, Problems, Strict, short

_OWN_KEYS = {
    "dtype": "dtype next to model",
    "gpu_memory_utilization": "gpu_memory",
    "max_model_len": "max_length",
    "model": "model",
    "quantization": "quantization next to model",
    "revision": "revision next to model",
    "tensor_parallel_size": "gpus",
    "trust_remote_code": "trust_remote_code next to model",
}
"""Options of vLLM that have keys of their own."""
_CHOSEN = {
    "api_key": "the server has a key of its own",
    "api_server_count": "the server is one process",
    "config": "options are written here",
    "data_parallel_size": "the server is one replica",
    "headless": "the server answers requests",
    "host": "the server listens on 127.0.0.1 only",
    "logprobs_mode": "log-probabilities are read as the model gives them",
    "nnodes": "the server runs on this machine",
    "pipeline_parallel_size": "gpus divides the model's layers by tensor parallelism",
    "port": "the server takes a free one",
    "root_path": "jobs reach the server at /v1",
    "served_model_name": "the name tells one server from another",
    "ssl_certfile": "the server listens on 127.0.0.1 only",
    "ssl_keyfile": "the server listens on 127.0.0.1 only",
    "task": "the server generates text",
    "uds": "the server listens on a port",
}
"""Options that sweeper sets, each with the reason."""
_FOREIGN_CODE = (
    *("hf_overrides", "io_processor_plugin", "logits_processors", "middleware"),
    *("reasoning_parser_plugin", "scheduler_cls", "tool_parser_plugin", "worker_cls"),
    *("worker_extension_cls",),
)
"""Options that load Python code, or that may."""
HOW_IT_RUNS = ("gpus", "gpu_memory", "python", "start_timeout", "concurrency")
"""Keys that change no answer, and so may change while a study runs."""


class VllmServer(Strict):
    """What every vLLM server that sweeper starts can be given."""

    max_length: PositiveInt | None = None
    """Most tokens of a prompt with its answer. By default the model's own limit, or as many as the
    memory has room for."""
    python: Annotated[str, Field(min_length=1)] | None = None
    """Python interpreter that has vLLM, if that is installed in another environment. By default
    what the environment variable SWEEPER_VLLM_PYTHON names, or the one that runs sweeper."""
    start_timeout: Duration = 1800.0
    """Longest time until the server answers: seconds, or `90s`, `30m`, `12h`, `2d`."""
    options: JsonMapping = {}
    """Further options of vLLM's server, without dashes: `{max_num_seqs: 64, enforce_eager: true}`.
    `false` becomes `--no-NAME`."""

    @field_validator("options", mode="after")
    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        problems = Problems()
        for name, value in options.items():
            if message := option_problem(name, value):
                problems.add((name,), message)
        problems.raise_if_any()
        return options


class StudentServer(VllmServer):
    """The vLLM servers that hold students' weights: one on each device that trials run on."""

    gpu_memory: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of a GPU's memory that its server takes, next to a trial."""


class StartedServer(VllmServer):
    """A vLLM server that sweeper starts for the teacher, and ends when nothing asks it any more."""

    start: Literal["vllm"]
    """The program: `vllm` (`pip install 'sweeper[vllm]'`)."""
    gpus: Annotated[int, Field(ge=0, le=1024)] | None = None
    """GPUs that the model is divided among: the machine's last ones. By default 1 where there are
    GPUs; 0: the CPU."""
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of each of its GPUs' memory that the server takes."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 32
    """Prompts asked at a time."""

    @property
    def gives_tokens(self) -> bool:
        """True: answers come back as token ids, in the student's vocabulary."""
        return True

    def identity(self, model: str) -> dict[str, Any]:
        """Return what decides the answers to a request, next to the model's own files."""
        return {"start": self.start, "options": self.options, "max_length": self.max_length}

    @model_validator(mode="before")
    @classmethod
    def _check_form(cls, values: Any) -> Any:
        problems = Problems()
        if isinstance(values, dict) and "url" in values:
            message = "expected either url, for a server elsewhere, or start, for one that sweeper"
            problems.add(("url",), f"{message} starts; found both")
        problems.raise_if_any()
        return values


def option_problem(name: str, value: Any) -> str | None:
    """Return why vLLM's server cannot be given this option; None if it can."""
    plain = name.replace("-", "_").lower()
    if not plain.isidentifier() or plain.startswith("_"):
        return f"expected the name of an option, such as max_num_seqs, found {short(name)}"
    if key := _OWN_KEYS.get(plain.removeprefix("no_")):
        return f"expected the key {key}, found {name!r} here"
    if reason := _CHOSEN.get(plain.removeprefix("no_")):
        return f"{name!r} cannot be set: {reason}"
    if plain in _FOREIGN_CODE:
        return f"{name!r} cannot be set: it can load code that is not vLLM's"
    if plain.startswith("no_") and isinstance(value, bool):
        return f"expected {plain.removeprefix('no_')}: {str(not value).lower()}, found {name!r}"
    if value is None:
        return "expected a value, found none"
    return None
