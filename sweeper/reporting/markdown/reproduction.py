"""The parts of a report that say what a study used: its data, and what it takes to run it again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sweeper.foundation.secrets import redact
from sweeper.records.study_record import Provenance, StudyRecord
from sweeper.reporting.text.markdown_escape import as_yaml, cell, code, fenced, inline, table
from sweeper.reporting.text.terminal_escape import visible


def data_sections(record: StudyRecord) -> Iterator[str]:
    """What the study trained on."""
    data = record.data
    if data is None:
        return
    yield "## Data"
    facts = {
        "source": code(redact(data.source)),
        "rows": f"{data.used:,} used of {data.rows:,}",
        "mean length": f"{data.prompt_tokens:.1f} tokens of prompt,"
        f" {data.completion_tokens:.1f} of reference",
        "prompts": "through the chat template" if data.chat else "plain text",
        "fingerprint": f"`{data.fingerprint}`",
    }
    yield _facts(facts)
    if data.notes:
        yield "\n".join(f"- {inline(note)}" for note in data.notes)


def reproduction_sections(record: StudyRecord) -> Iterator[str]:
    """Command, seed, versions, hashes, and the study file itself."""
    yield "## Reproduction"
    yield _facts(_provenance(record.provenance, record.config))
    yield "The command:"
    yield fenced(redact(record.provenance.command), "sh")
    yield "The study file, with everything that the command set over it:"
    yield fenced(as_yaml(record.config), "yaml")


def short_facts(record: StudyRecord) -> dict[str, str]:
    """The least that it takes to run a study again, for the terminal."""
    provenance = record.provenance
    return {
        "command": visible(redact(provenance.command)),
        "seed": str(record.config.get("seed", 0)),
        "revision": visible(provenance.git_revision or "none"),
    }


def _provenance(provenance: Provenance, config: dict[str, Any]) -> dict[str, str]:
    revision = provenance.git_revision
    local = " with local changes" if revision and revision.endswith("+") else ""
    facts = {
        "study file": code(provenance.study_file),
        "started": datetime.fromtimestamp(provenance.started, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seed": str(config.get("seed", 0)),
        "git revision": f"`{revision.rstrip('+')}`{local}" if revision else "none",
        "versions": ", ".join(f"{name} {text}" for name, text in provenance.versions.items()),
        "hardware": ", ".join(f"{name}: {text}" for name, text in provenance.hardware.items()),
    }
    if provenance.data_fingerprint:
        facts["data"] = f"`{provenance.data_fingerprint}`"
    for role, digest in provenance.suite_hashes.items():
        facts[f"{role} suite"] = f"`{digest}`"
    return facts


def _facts(facts: dict[str, str]) -> str:
    return table(["", ""], [[name, cell(text)] for name, text in facts.items()], left=(0, 1))
