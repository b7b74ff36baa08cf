"""Libraries that the command needs, found without importing them."""

from __future__ import annotations

from importlib.util import find_spec

TO_MEASURE = {
    "torch": "torch",
    "transformers": "transformers",
    "trl": "trl",
    "accelerate": "accelerate",
    "datasets": "datasets",
    "peft": "peft",
    "safetensors": "safetensors",
    "pydantic": "pydantic",
    "ruamel.yaml": "ruamel.yaml",
    "rich": "rich",
    "filelock": "filelock",
    "jinja2": "jinja2",
    "httpx2": "httpx2",
}
"""Modules that measuring imports, with the packages that have them."""
TO_TEST = {"pytest": "pytest", "pytest_timeout": "pytest-timeout"}
"""Modules that running the tests imports. Tests that need more are skipped where it is missing."""


def missing(modules: dict[str, str]) -> list[str]:
    """Return the packages of ``modules`` that this Python lacks."""
    return [package for module, package in modules.items() if not _is_there(module)]


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False
