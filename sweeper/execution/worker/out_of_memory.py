"""Errors that mean that memory ran out, of a device or of the machine."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable
from typing import TypeVar

import torch
from safetensors import SafetensorError

from sweeper.execution.fault_texts import OUT_OF_MEMORY
from sweeper.execution.worker.error_chain import error_chain

Result = TypeVar("Result")

_OUT_OF_MEMORY = 2
"""CUDA's code, ``cudaErrorMemoryAllocation``; HIP's is the same."""
_SAYING = (RuntimeError, OSError, SafetensorError)
"""Kinds of errors whose messages count; others may quote any text."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether memory ran out: an error, one in its group or one that caused it says so."""
    return any(map(_reports_it, error_chain(error)))


def _reports_it(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    accelerator = isinstance(error, torch.AcceleratorError)
    if accelerator and getattr(error, "error_code", None) == _OUT_OF_MEMORY:
        return True
    return isinstance(error, _SAYING) and OUT_OF_MEMORY.search(str(error)) is not None


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
