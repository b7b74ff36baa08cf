from __future__ import annotations

import subprocess
import sys

import pytest

_SCRIPT = """
import resource
from sweeper.execution.worker.malloc import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(2**28)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults(), keep_freed_memory(), faults(), faults())
"""


def test_freed_memory_is_used_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True
    )
    by_default, kept, _, again = done.stdout.split()
    if kept == "False":
        pytest.skip("not glibc")
    assert int(by_default) > 10 * int(again)
