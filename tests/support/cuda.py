"""GPUs of the machine that the tests run on."""

from __future__ import annotations

import pytest
import torch

COUNT = torch.cuda.device_count()
needs_gpu = pytest.mark.skipif(COUNT == 0, reason="torch can use no GPU here")
needs_two_gpus = pytest.mark.skipif(COUNT < 2, reason=f"needs two GPUs, and torch can use {COUNT}")
