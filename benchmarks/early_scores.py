"""Do early scores tell which trial will be best?: ``python -m benchmarks.early_scores``.

Studies with a pruner that prunes nothing: for each point of the training the rank correlation
(Spearman) of the score there, on 50 documents, with the trial's final score. ``recovered`` is the
study of ``pruning.py``, whose student has much to learn; ``trained`` has the built-in student,
which is trained already, with a learning rate that decays to zero, and with one that stays.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from scipy.stats import spearmanr

from benchmarks.engine import say
from benchmarks.pruning import run

TRAINED = {
    "student: {model: builtin/adder-teacher, keep_layers: [0, 1, 3]}": (
        "student: {model: builtin/adder-student}"
    )
}
SETUPS: dict[str, tuple[dict[str, str], str]] = {
    "recovered, decaying rate": ({}, "linear"),
    "trained, decaying rate": (TRAINED, "linear"),
    "trained, constant rate": (TRAINED, "constant"),
}
POINTS = (0.11, 0.22, 0.33, 0.5, 0.75)


def scores(directory: Path) -> list[tuple[list[float], float]]:
    """Return each trial's scores at the points, and its last score."""
    found = []
    for trial in sorted(directory.glob("pruning/arms/gkd/*")):
        outcome = json.loads((trial / "outcome.json").read_text(encoding="utf-8"))
        lines = (trial / "progress.jsonl").read_text(encoding="utf-8").splitlines()
        early = [row["interim"]["score"] for row in map(json.loads, lines) if row.get("interim")]
        if outcome["scores"] and len(early) == len(POINTS):
            found.append((early, outcome["scores"]["score"]))
    return found


def main() -> None:
    """Print a table and, if asked, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    pruner = f"{{type: asha, at: {list(POINTS)}, startup_trials: {asked.trials}}}"
    table = {}
    for name, (changes, schedule) in SETUPS.items():
        with tempfile.TemporaryDirectory() as place:
            options = argparse.Namespace(**vars(asked), sampler="random", schedule=schedule)
            run(Path(place), pruner, asked.seed, options, changes)
            [directory] = Path(place, "runs").iterdir()
            found = scores(directory)
        table[name] = {
            str(share): float(spearmanr([e[i] for e, _ in found], [f for _, f in found]).statistic)
            for i, share in enumerate(POINTS)
        }
        values = ", ".join(f"{share}: {value:.2f}" for share, value in table[name].items())
        say(f"{name}, {len(found)} trials: {values}")
    if asked.json:
        asked.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
