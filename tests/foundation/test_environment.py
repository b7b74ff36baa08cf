"""What a shell may hold, and what reaches a trial."""

from __future__ import annotations

import pytest

from sweeper.foundation.environment import clear_leftovers

LEFT = (
    *("ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_FSDP", "ACCELERATE_DYNAMO_BACKEND"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("FSDP_STATE_DICT_TYPE", "DEEPSPEED_USE_HPU", "PARALLELISM_CONFIG_TP_SIZE", "PMI_SIZE"),
    *("TORCHELASTIC_RUN_ID", "GROUP_RANK", "ROLE_RANK", "OMPI_COMM_WORLD_RANK"),
    *("SM_HP_MP_PARAMETERS", "SM_FRAMEWORK_PARAMS", "SMDATAPARALLEL_LOCAL_RANK"),
    *("TORCHINDUCTOR_USE_FAST_MATH", "TORCHDYNAMO_SUPPRESS_ERRORS", "TRITON_INTERPRET"),
    *("NVIDIA_TF32_OVERRIDE", "DNNL_DEFAULT_FPMATH_MODE", "TRANSFORMERS_SDPA_FORCE_GQA"),
    *("USE_TF", "USE_TORCH", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TRUST_REMOTE_CODE"),
)
KEPT = (
    *("HF_HOME", "HF_TOKEN", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", "NCCL_DEBUG", "PATH"),
    *("PYTORCH_CUDA_ALLOC_CONF", "HTTPS_PROXY", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM"),
    *("TORCHINDUCTOR_CACHE_DIR", "TORCHDYNAMO_DISABLE", "CUBLAS_WORKSPACE_CONFIG", "TMPDIR"),
    *("ATEN_CPU_CAPABILITY", "HF_ALLOW_CODE_EVAL", "MKL_NUM_THREADS", "LD_LIBRARY_PATH"),
)


@pytest.mark.parametrize("name", LEFT)
def test_leftovers_of_launchers_are_removed(name: str) -> None:
    environment = {name: "1", **dict.fromkeys(KEPT, "x")}
    assert clear_leftovers(environment) == (name,)
    assert environment == dict.fromkeys(KEPT, "x")
