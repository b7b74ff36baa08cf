"""Errors that mean that memory ran out, of a device or of the machine."""

from __future__ import annotations

import errno
import gc
import re
from collections.abc import Callable
from typing import TypeVar

import torch
from safetensors import SafetensorError

Result = TypeVar("Result")

_OUT_OF_MEMORY = 2
"""CUDA's code, ``cudaErrorMemoryAllocation``; HIP's is the same."""
_SAYING = (RuntimeError, OSError, SafetensorError)
"""Kinds of errors whose messages count; others may quote any text."""
_MESSAGES = re.compile(
    "|".join(
        (
            # CUDA, HIP, MPS, XPU, NCCL; drivers and runtimes.
            r"out[ _]?of[ _]?((device|host)[ _]?)?memory",
            r"cudaErrorMemoryAllocation",
            # Libraries that allocate for themselves; a handle takes memory, too.
            r"(cublas|cusparse|cusolver|cufft|curand|hipblas|rocblas|miopen|cudnn)\w*"
            r"(alloc(ation)?_?failed|memory_error|not_initialized|insufficient_resources)",
            r"cudnn_status_internal_error\b",
            r"failed to (cuda )?(host )?[cm]?alloc\b",
            r"ur_result_error_out_of_resources",
            # Torch asks the driver how much is left, which fails when nothing is.
            r"nvml_success == r INTERNAL ASSERT FAILED",
            r"invalid buffer size: [\d.]+ [kmgt]i?b",
            # Main memory.
            r"(can't|cannot|could not|failed to|unable to) allocate (\w+ )?(memory|\d)",
            r"(not enough|insufficient) (\w+ ){0,2}memory",
            r"memory allocation (of \d+ bytes )?failed",
            r"std::bad_alloc",
            r"bad allocation",
            # A thread's stack finds no room, as below a limit of memory.
            r"can't start new thread",
        )
    ),
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether memory ran out: an error, one in its group or one that caused it says so."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        group = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
        if _reports_it(error) or any(map(is_out_of_memory, group)):
            return True
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def _reports_it(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    accelerator = isinstance(error, torch.AcceleratorError)
    if accelerator and getattr(error, "error_code", None) == _OUT_OF_MEMORY:
        return True
    return isinstance(error, _SAYING) and _MESSAGES.search(str(error)) is not None


def in_smaller_batches(work: Callable[[int], Result], size: int, what: str) -> tuple[Result, int]:
    """Return what ``work`` returns for a batch of ``size``, halved while memory runs out.

    The other value is the batch size that fitted. ``what`` is done again, in words for the log.

    Raises:
        Exception: As ``work``, in the end with a batch size of 1 if memory ran out.
    """
    while True:
        try:
            return work(size), size
        except Exception as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        # Only here, where the error no longer keeps what was computed.
        release_memory()
        size //= 2
        print(f"Memory ran out; {what} again with a batch size of {size}.", flush=True)


def release_memory() -> None:
    """Free what is no longer reachable, on the device as well."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
