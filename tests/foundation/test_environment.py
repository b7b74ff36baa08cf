"""What a shell may hold, and what reaches a trial."""

from __future__ import annotations

import pytest

from sweeper.foundation.environment import clear_leftovers

LEFT = (
    *("ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_FSDP", "ACCELERATE_DYNAMO_BACKEND"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("FSDP_STATE_DICT_TYPE", "DEEPSPEED_USE_HPU", "PARALLELISM_CONFIG_TP_SIZE", "PMI_SIZE"),
    *("TORCHELASTIC_RUN_ID", "GROUP_RANK", "ROLE_RANK", "OMPI_COMM_WORLD_RANK"),
)
KEPT = (
    *("HF_HOME", "HF_TOKEN", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", "NCCL_DEBUG", "PATH"),
    *("PYTORCH_CUDA_ALLOC_CONF", "HTTPS_PROXY", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM"),
)


@pytest.mark.parametrize("name", LEFT)
def test_leftovers_of_launchers_are_removed(name: str) -> None:
    environment = {name: "1", **dict.fromkeys(KEPT, "x")}
    assert clear_leftovers(environment) == (name,)
    assert environment == dict.fromkeys(KEPT, "x")
