"""Every way in which libraries say that memory ran out."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from sweeper.execution.worker.out_of_memory import in_smaller_batches, is_out_of_memory
from sweeper.foundation.errors import BadInputError

MESSAGES = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.1 GiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "CUDA driver error: out of memory",
    "cuda runtime error (2) : out of memory at /pytorch/aten/src/THC/THCCachingHostAllocator.cpp",
    "Triton Error [CUDA]: out of memory",
    "CUDA_ERROR_OUT_OF_MEMORY: cuMemAlloc",
    "cudaErrorMemoryAllocation",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "CUDA error: CUSPARSE_STATUS_ALLOC_FAILED when calling `cusparseCreate(handle)`",
    "CUDA error: CUSPARSE_STATUS_INSUFFICIENT_RESOURCES when calling `cusparseSpMM`",
    "cuFFT error: CUFFT_ALLOC_FAILED",
    "CURAND_STATUS_ALLOCATION_FAILED",
    "NCCL error in: ProcessGroupNCCL.cpp:2251, unhandled cuda error, NCCL version 2.27.3\n"
    "ncclUnhandledCudaError: Call to CUDA function failed.\n"
    "Last error:\nCuda failure 2 'out of memory'",
    "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\n"
    "Failed to CUDA calloc async 608 bytes",
    "Failed to CUDA malloc 4194304 bytes",
    "Failed to CUDA host alloc 1234 bytes",
    "Last error:\nFailed to malloc 4096 bytes",
    "NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp:1016",
    "HIP out of memory. Tried to allocate 2.00 GiB",
    "HIP error: hipErrorOutOfMemory",
    "rocblas_status_memory_error",
    "MPS backend out of memory (MPS allocated: 17.9 GB, other allocations: 1 GB, max: 18.1 GB)",
    "Invalid buffer size: 24.00 GiB",
    "XPU out of memory. Tried to allocate 4.00 GiB",
    "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
    "level_zero backend failed with error: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)",
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"
    " tried to allocate 6442450944 bytes. Error code 12 (Cannot allocate memory)",
    "DefaultCPUAllocator: not enough memory: you tried to allocate 6442450944 bytes.",
    "Could not allocate tensor with 2048 bytes. There is not enough GPU video memory available!",
    "unable to mmap 988097824 bytes from file </m/model.safetensors>: Cannot allocate memory (12)",
    "std::bad_alloc",
    "bad allocation",
    "can't start new thread",
)
OTHERS = (
    "out of resource: shared memory, Required: 147456, Hardware limit: 101376",
    "CUDA error: device-side assert triggered",
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_COMPILATION_FAILED",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
    # Little memory is one cause; another version of cuDNN, or a type without a kernel, too.
    "GET was unable to find an engine to execute this computation",
    "NCCL error: unhandled system error, ncclSystemError: Socket timeout",
    "mat1 and mat2 shapes cannot be multiplied (4x8 and 16x8)",
    "cannot allocate a process group twice",
    "Failed to allocate a port",
)


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_of_the_libraries_is_known(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))


@pytest.mark.parametrize("message", OTHERS)
def test_other_failures_are_not_taken_for_it(message: str) -> None:
    assert not is_out_of_memory(RuntimeError(message))


def of_accelerator(code: int) -> torch.AcceleratorError:
    error = torch.AcceleratorError("CUDA error")
    error.error_code = code
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("nothing is said"),
        torch.cuda.OutOfMemoryError("nothing is said"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        SafetensorError("Error while deserializing: Cannot allocate memory (os error 12)"),
        torch.distributed.DistBackendError("Failed to CUDA malloc 8 bytes"),
        of_accelerator(2),
        ExceptionGroup("in threads", [ValueError("other"), torch.OutOfMemoryError("nothing")]),
        ExceptionGroup("outer", [ExceptionGroup("inner", [MemoryError()])]),
    ],
)
def test_types_and_codes_are_enough(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        of_accelerator(700),
        OSError(errno.ENOENT, "no"),
        ValueError("out of memory"),
        ExceptionGroup("out of memory", [ValueError("out of memory")]),
        None,
    ],
)
def test_a_quoted_text_or_another_code_is_none(error: Exception | None) -> None:
    assert not is_out_of_memory(error)


def raised(work: Any) -> Exception:
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("expected an error")


def test_what_the_libraries_really_raise() -> None:
    assert is_out_of_memory(raised(lambda: np.empty(2**46)))
    assert is_out_of_memory(raised(lambda: torch.empty(2**60, dtype=torch.uint8)))


def test_an_error_that_another_one_hides_is_found() -> None:
    def load() -> None:
        try:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        except OSError as error:
            raise BadInputError("Cannot load the weights") from error

    assert is_out_of_memory(raised(load))
    assert not is_out_of_memory(BadInputError("found 'out of memory'"))


@pytest.mark.parametrize(
    ("room", "tried"), [(9, [8]), (8, [8]), (3, [8, 4, 2]), (1, [8, 4, 2, 1]), (0, [8, 4, 2, 1])]
)
def test_batches_are_halved_until_they_fit(room: int, tried: list[int]) -> None:
    sizes: list[int] = []

    def work(size: int) -> str:
        sizes.append(size)
        if size > room:
            raise torch.OutOfMemoryError("nothing is said")
        return "done"

    if room:
        assert in_smaller_batches(work, 8, "work is done") == ("done", tried[-1])
    else:
        with pytest.raises(torch.OutOfMemoryError):
            in_smaller_batches(work, 8, "work is done")
    assert sizes == tried


def test_other_errors_are_raised_at_once() -> None:
    sizes: list[int] = []

    def work(size: int) -> None:
        sizes.append(size)
        raise ValueError("out of memory")

    with pytest.raises(ValueError, match="out of memory"):
        in_smaller_batches(work, 8, "work is done")
    assert sizes == [8]
