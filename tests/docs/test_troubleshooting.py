"""The troubleshooting page: its quotes are the program's messages, its symptoms have sections."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.tiny_studies import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
SYMPTOMS = [line.split("|")[2] for line in PAGE.splitlines() if "](#" in line and line[0] == "|"]


def messages() -> list[str]:
    """String literals of the package, with dots for the values of an f-string."""
    texts = []
    for path in sorted((ROOT / "sweeper").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = (getattr(part, "value", "") for part in node.values)
                texts.append("".join(part if isinstance(part, str) else "…" for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts += [] if id(node) in docstrings else [node.value]
    return texts


def test_every_quoted_message_occurs_in_the_package() -> None:
    quotes = re.findall(r'"([^"]+)"', " ".join(PAGE.split()))
    assert len(quotes) > 40 and len(SYMPTOMS) >= 10
    texts = messages()
    patterns = {quote: ".*".join(map(re.escape, quote.rstrip(".").split("…"))) for quote in quotes}
    missing = [
        quote
        for quote, pattern in patterns.items()
        if not any(re.search(pattern, text, re.DOTALL) for text in texts)
    ]
    assert not missing


@pytest.mark.parametrize("link", SYMPTOMS)
def test_every_symptom_of_the_first_table_has_a_section(link: str) -> None:
    title = re.search(r"\[(.+)\]", link)
    assert title is not None
    section = PAGE.split(f"\n## {title[1]}\n")[1].split("\n## ")[0]
    assert len(section.split()) > 40
