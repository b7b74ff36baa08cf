"""Import of bitsandbytes, only in a process that may need it.

PEFT imports it wherever it is installed. Its import queries every GPU, after which no fork of the
process can use one. Where the package ``kernels`` is installed, it runs code from a hub.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec


def import_peft() -> None:
    """Import PEFT without bitsandbytes, as the process that jobs are forked from must."""
    if "peft" in sys.modules:
        return
    with _hidden("bitsandbytes"):
        importlib.import_module("peft")
    utils = importlib.import_module("peft.import_utils")
    for check in (utils.is_bnb_available, utils.is_bnb_4bit_available):
        check.cache_clear()


def import_bitsandbytes() -> None:
    """Import bitsandbytes, if it is installed, without code from a hub."""
    # It would log for every product in 8 bits that it is computed in float16.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if "bitsandbytes" not in sys.modules and find_spec("bitsandbytes") is not None:
        with _hidden("kernels"):
            importlib.import_module("bitsandbytes")


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Make a package look as if it were not installed, within the block."""
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
