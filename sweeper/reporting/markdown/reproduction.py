"""The sections of a report about the study's data, and how to run the study again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sweeper.analysis.scoring_dtype import UNDECLARED, scoring_dtype
from sweeper.analysis.scoring_engine import scoring_engine
from sweeper.foundation.secrets import redact
from sweeper.records.study_record import Provenance, StudyRecord
from sweeper.reporting.text.markdown_escape import as_yaml, cell, code, facts, fenced, inline
from sweeper.reporting.text.server_costs import programs_of
from sweeper.reporting.text.terminal_escape import visible


def data_sections(record: StudyRecord) -> Iterator[str]:
    """Yield what the study trained on."""
    if (data := record.data) is None:
        return
    yield "## Data"
    rows = {
        "source": code(redact(data.source)),
        "rows": f"{data.used:,} used of {data.rows:,}",
        "mean length": f"{data.prompt_tokens:.1f} tokens of prompt,"
        f" {data.completion_tokens:.1f} of reference",
        "prompts": "through the chat template" if data.chat else "plain text",
        "fingerprint": f"`{data.fingerprint}`",
    }
    yield facts(rows)
    if data.notes:
        yield "\n".join(f"- {inline(note)}" for note in data.notes)


def reproduction_sections(record: StudyRecord) -> Iterator[str]:
    """Yield command, seed, versions, hashes, and the study file itself."""
    yield "## Reproduction"
    scored_in = {"models scored in": scoring_dtype(record) or UNDECLARED}
    if (engine := scoring_engine(record)) != "transformers":
        scored_in["models scored by"] = engine
    if (defaults := record.device_defaults) is not None and defaults.training:
        scored_in["trained with"] = f"{defaults.listed()} (defaults on {defaults.device})"
    served = _engines(record) | _servers(record)
    yield facts(_provenance(record.provenance, record.config) | scored_in | served)
    yield "The command:"
    yield fenced(redact(record.provenance.command), "sh")
    taken = " and what it took from its devices" if record.device_defaults is not None else ""
    yield f"The study file, with the command's overrides{taken}:"
    yield fenced(as_yaml(record.config), "yaml")


def short_facts(record: StudyRecord) -> dict[str, str]:
    """Return the least that it takes to run a study again, for the terminal."""
    provenance = record.provenance
    return {
        "command": visible(redact(provenance.command)),
        "seed": str(record.config.get("seed", 0)),
        "revision": visible(provenance.git_revision or "none"),
    }


def _provenance(provenance: Provenance, config: dict[str, Any]) -> dict[str, str]:
    revision = provenance.git_revision
    local = " with local changes" if revision and revision.endswith("+") else ""
    rows = {
        "study file": code(provenance.study_file),
        "started": utc(provenance.started),
        "seed": str(config.get("seed", 0)),
        "git revision": f"`{revision.rstrip('+')}`{local}" if revision else "none",
        "versions": ", ".join(f"{name} {text}" for name, text in provenance.versions.items()),
        "hardware": ", ".join(f"{name}: {text}" for name, text in provenance.hardware.items()),
    }
    return rows | fingerprints(provenance)


def _engines(record: StudyRecord) -> dict[str, str]:
    """Return what samples rollouts, with the test that chose it."""
    if (choice := record.engines) is None:
        return {}
    return {"rollouts": inline(choice.told().removeprefix("rollouts are "))}


def _servers(record: StudyRecord) -> dict[str, str]:
    """Return what served each model, and where."""
    programs: dict[str, dict[str, None]] = {}
    for server in record.servers:
        programs.setdefault(f"served {server.role}", {}).update(dict.fromkeys(programs_of(server)))
    return {role: cell("; ".join(names)) for role, names in programs.items()}


def fingerprints(provenance: Provenance) -> dict[str, str]:
    """Return the hashes of the data and the suites as code spans."""
    data = {"data": provenance.data_fingerprint} if provenance.data_fingerprint else {}
    suites = {f"{role} suite": digest for role, digest in provenance.suite_hashes.items()}
    return {name: f"`{digest}`" for name, digest in (data | suites).items()}


def utc(seconds: float) -> str:
    """Format a time, in seconds since the epoch, as a date and a time of UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
