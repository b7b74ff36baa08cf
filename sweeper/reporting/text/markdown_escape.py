"""Foreign text in Markdown: messages, names and settings appear as they were written."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML

from sweeper.foundation.secrets import redacted
from sweeper.reporting.text.terminal_escape import visible


def inline(text: str) -> str:
    """Return ``text`` on one line, with Markdown and HTML escaped outside code spans."""
    # Longer runs of backticks are no spans of ours: what stands between them is escaped.
    line = visible(" ".join(text.split()))
    parts = re.split(r"((?<!`)`(?!`)[^`]*`(?!`))", line)
    return "".join(part if index % 2 else _escaped(part) for index, part in enumerate(parts))


def cell(text: str) -> str:
    """Escape ``text`` for a table, where a bar would end it even inside a code span."""
    return re.sub(r"(?<!\\)\|", r"\\|", inline(text))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = ()) -> str:
    """Build a Markdown table; columns in ``left`` align left, the others right."""
    rule = [":--" if index in left else "--:" for index in range(len(header))]
    lines = (f"| {' | '.join(line)} |" for line in (header, rule, *rows))
    # A score stays on one line with its standard error.
    return "\n".join(lines).replace(" ± ", "\u00a0±\u00a0")


def facts(rows: Mapping[str, str]) -> str:
    """Build a Markdown table of names and values without a header."""
    return table(["", ""], [[name, cell(text)] for name, text in rows.items()], left=(0, 1))


def fenced(text: str, language: str) -> str:
    """Build a code block that ``text`` cannot end."""
    text = visible(text)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def setting(name: str, value: Any) -> str:
    """Format one setting as a code span that can be pasted into a study file."""
    return code(f"{name}: {json.dumps(redacted(value, name), default=str, ensure_ascii=False)}")


def code(text: str) -> str:
    """Format ``text`` on one line as a code span that it cannot end."""
    line = visible(" ".join(text.split()))
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    if not longest:
        return f"`{line}`"
    fence = "`" * (longest + 1)
    return f"{fence} {line} {fence}"


def as_yaml(values: Mapping[str, Any], *, flow: bool = False) -> str:
    """Dump ``values`` as YAML in their own order, without secrets; ``flow``: one line per key."""
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None if flow else False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 10_000 if flow else 100
    buffer = io.StringIO()
    yaml.dump(redacted(values), buffer)
    return buffer.getvalue()


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    # An underscore inside a word is plain to Markdown; elsewhere it could begin an emphasis.
    text = re.sub(r"([|*`\[\]~])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
