"""One worker against two, one thread each: ``python -m benchmarks.workers --json FILE``.

The quickstart's search, of 26 trials, its caches filled before. ``share`` is the wall time of the
whole command, from its start to the written report, over that with one worker; with ``--ray`` also
that of one worker on Ray. Every round runs each set-up once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.engine import say
from tests.support.tiny_studies import ROOT

STUDY = ROOT / "studies" / "quickstart.yaml"
DEFAULTS = "{lmbda: 0.5, beta: 0.5, temperature: 0.9, max_new_tokens: 48}"
SEARCH = (
    "trials=6",
    "confirm.seeds=0",
    f"arms.gkd-default={{method: gkd, settings: {DEFAULTS}}}",
)
"""What of the quickstart is timed."""
SETUPS = {
    "one worker": "{workers: 1, threads_per_worker: 1, device: cpu}",
    "two workers": "{workers: 2, threads_per_worker: 1, device: cpu}",
    "two pinned workers": "{workers: 2, threads_per_worker: 1, device: cpu, pin_cores: true}",
}
RAY = "{executor: ray, address: local, workers: 1, resources_per_trial: {cpu: 1}, device: cpu}"


def run(compute: str, folder: Path) -> float:
    """Wall seconds of ``sweeper run`` on new runs and the cache in ``folder``."""
    with tempfile.TemporaryDirectory(dir=folder) as runs:
        command = [sys.executable, "-m", "sweeper", "run", str(STUDY), "--runs", runs]
        command += ["--reports", f"{runs}/reports", "--cache-dir", str(folder / "cache")]
        for override in (*SEARCH, f"compute={compute}"):
            command += ["--set", override]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        started = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True, env=environment)
        return time.perf_counter() - started


def main() -> None:
    """Run them one after the other and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ray", action="store_true", help="Also one worker on Ray.")
    options = parser.parse_args()
    setups = {**SETUPS, **({"one worker on Ray": RAY} if options.ray else {})}
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        say(f"to fill the cache: {run(SETUPS['two workers'], folder):.1f} s")
        for _ in range(options.rounds):
            rounds.append({})
            for name, compute in setups.items():
                rounds[-1][name] = run(compute, folder)
                say(f"{name}: {rounds[-1][name]:.1f} s")
    found = {
        "study": STUDY.name,
        "seconds": rounds,
        "share": {
            name: statistics.median(seconds[name] / seconds["one worker"] for seconds in rounds)
            for name in setups
        },
    }
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
