"""What is loaded when: the command line answers at once, and only jobs load what trains."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny_studies import ROOT

TRAINING = {"torch", "transformers", "trl", "peft", "lm_eval", "datasets", "accelerate"}
HEAVY = TRAINING | {"optuna", "mlflow", "matplotlib", "pandas", "scipy", "numpy", "sqlalchemy"}


def loaded_by(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after ``code``."""
    report = "\nimport sys; print('LOADED', *{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_help_and_version_load_nothing_heavy() -> None:
    for option in ("--help", "--version", "run --help"):
        loaded = loaded_by(
            f"import sys; sys.argv = ['sweeper', *{option.split()!r}]\n"
            "from sweeper.cli import main\n"
            "try:\n    main()\nexcept SystemExit as error:\n    assert not error.code\n"
        )
        # Typer itself loads pydantic, if it is installed.
        assert loaded & (HEAVY | {"ruamel", "rich"}) == set()
        if option == "--help":
            assert "pydantic" not in loaded


def test_checking_a_study_loads_no_library_that_trains_or_searches() -> None:
    loaded = loaded_by(
        "from pathlib import Path\n"
        "from sweeper.config.loading import load_study\n"
        "load_study(Path('studies/quickstart.yaml'))\n"
        "import sweeper.study.manifest"
    )
    assert loaded & HEAVY == set()


@pytest.mark.parametrize(
    "modules",
    [
        "sweeper.study.coordinator, sweeper.commands.run, sweeper.execution.local",
        "sweeper.reporting.console, sweeper.reporting.live, sweeper.reporting.markdown.report",
        "sweeper.study.results, sweeper.reporting.summary, sweeper.reporting.tables.studies",
        "sweeper.commands.export.model, sweeper.commands.check.run_checks",
        "sweeper.execution.ray_node",
    ],
)
def test_the_coordinator_loads_no_library_that_trains(modules: str) -> None:
    assert loaded_by(f"import {modules}") & TRAINING == set()


def test_imports_point_one_way() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_no_test_imports_another_test() -> None:
    imports = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules: list[str] = []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno} imports relatively"
                modules = [node.module or ""]
                if node.module == "tests":
                    modules = [f"tests.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            imports += [
                f"{path.relative_to(ROOT)}:{node.lineno} {module}"
                for module in modules
                if module.partition(".")[0] == "tests" and not module.startswith("tests.support")
            ]
    assert imports == [], "what tests share belongs in tests/support"


def test_what_strings_name_of_the_package_exists() -> None:
    """Programs in strings, and places to be killed at: no type checker reads them."""
    rooms = "|".join(path.name for path in (ROOT / "sweeper").iterdir() if path.is_dir())
    start = rf"(?:(?<=import )|(?<=from )|(?=\bsweeper\.(?:{rooms})\b))"
    pattern = re.compile(start + r"sweeper\.[\w.]+(?:(?: import |:)[\w.]+)?")
    missing = []
    for folder in ("tests", "benchmarks", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    missing += [
                        f"{path.relative_to(ROOT)}:{node.lineno} {name}"
                        for name in pattern.findall(node.value)
                        if not exists(re.split(r" import |[.:]", name.rstrip(".")))
                    ]
    assert missing == []


def exists(parts: list[str]) -> bool:
    """Return whether the package has such a file and such a name in it; import nothing."""
    folder = ROOT
    while parts and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    if not parts:
        return True
    file = folder / f"{parts[0]}.py"
    if file.exists():
        parts.pop(0)
    else:
        file = folder / "__init__.py"
    node: ast.AST = ast.parse(file.read_text(encoding="utf-8"))
    for part in parts:
        bound = [child for child in ast.iter_child_nodes(node) if part in names_of(child)]
        if not bound:
            return False
        node = bound[0]
    return True


def names_of(node: ast.AST) -> set[str]:
    """Return the names that a statement binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return {target.id for target in targets if isinstance(target, ast.Name)}
