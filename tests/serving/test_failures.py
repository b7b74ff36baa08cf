"""What a server's last words mean: the kind of failure, the line that shows it, what to try."""

from __future__ import annotations

import pytest

from sweeper.serving.failures import PORT_TAKEN, explain, kind_of

PREFIX = "(EngineCore pid=4242) ERROR 11-29 21:00:00 [core.py:1100] "
KINDS = [
    (
        "beyond the model",
        "Value error, User-specified max_model_len (4096) is greater than the derived max_model_len"
        " (max_position_embeddings=1024 or model_max_length=None in model's config.json).",
        "Write a smaller compute.vllm.max_length: the model does not read as much.",
    ),
    (
        "not served",
        "ValueError: Unsupported CPU attention configuration: head_size=8",
        "vLLM cannot serve this model",
    ),
    (
        "not served",
        "NotImplementedError: Unsupported head size 12 in this configuration",
        "vLLM cannot serve this model",
    ),
    (
        "not served",
        "ValueError: Head size 20 is not supported by PagedAttention.",
        "vLLM cannot serve this model",
    ),
    (
        "not served",
        "ValueError: Model architectures ['ToyForCausalLM'] are not supported for now.",
        "vLLM cannot serve this model",
    ),
    (
        "too long",
        "ValueError: To serve at least one request with the models's max seq len (32768), 3.5 GiB"
        " KV cache is needed, which is larger than the available KV cache memory (1.0 GiB).",
        "Write a smaller compute.vllm.max_length, or a larger gpu_memory.",
    ),
    (
        "no memory",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "options: {max_num_seqs: 16}",
    ),
    (
        "no memory",
        "ValueError: Free memory on device (10.1/79.1 GiB) on startup is less than desired GPU"
        " memory utilization (0.3, 23.7 GiB).",
        "another share of the GPU (gpu_memory)",
    ),
    ("no vllm", "ModuleNotFoundError: No module named 'vllm'", "pip install 'sweeper[vllm]'"),
    (PORT_TAKEN, "OSError: [Errno 98] Address already in use", ""),
    (None, "RuntimeError: the disk is on fire", ""),
]


@pytest.mark.parametrize(("kind", "line", "advice"), KINDS)
def test_each_kind_is_known_by_its_line(kind: str | None, line: str, advice: str) -> None:
    text = (
        f"INFO 11-29 21:00:00 [utils.py:1] starting\n{PREFIX}Traceback (most recent call last):\n"
        f'{PREFIX}  File "x.py", line 1, in run\n{PREFIX}{line}\n'
        "RuntimeError: Engine core initialization failed. See root cause above."
    )
    assert kind_of(text) == kind
    told = explain(text, 1, ("compute", "vllm"))
    assert told.startswith(f"ended (1): {line}")
    assert advice in told
    assert "KEY" not in told


def test_the_advice_names_the_key_of_the_server() -> None:
    line = "max_model_len (4096) is greater than the derived max_model_len"
    assert "teacher.server.max_length" in explain(line, 1, ("teacher", "server"))
    assert "compute.vllm.max_length" in explain(line, 1, ("compute", "vllm"))


def test_what_is_beyond_the_model_is_no_lack_of_memory() -> None:
    """Its advice would be a larger share of the GPU."""
    line = KINDS[0][1] + " This may lead to CUDA out of memory errors."
    assert kind_of(line) == "beyond the model"
