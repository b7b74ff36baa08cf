"""One worker against two, one thread each: ``python -m benchmarks.workers --json FILE``.

A study of the quickstart's size on the built-in pair, its caches filled before. ``share`` is the
wall time of the whole command with two workers over that with one; with ``--ray`` also the time of
one worker on Ray over that of one local worker.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.engine import say
from benchmarks.pairs import make
from benchmarks.study import write_study

LINE = "compute: {workers: 1, device: cpu}\n"
SETUPS = {
    "filling the cache": "{workers: 2, threads_per_worker: 1, device: cpu}",
    "one worker": "{workers: 1, threads_per_worker: 1, device: cpu}",
    "two workers": "{workers: 2, threads_per_worker: 1, device: cpu}",
    "two pinned workers": "{workers: 2, threads_per_worker: 1, device: cpu, pin_cores: true}",
}
RAY = "{executor: ray, address: local, workers: 1, resources_per_trial: {cpu: 1}, device: cpu}"


def run(study: Path, compute: str, runs: Path) -> float:
    """Wall seconds of ``sweeper run``."""
    text = study.read_text(encoding="utf-8")
    assert LINE in text
    path = study.with_name("timed.yaml")
    path.write_text(text.replace(LINE, f"compute: {compute}\n"), encoding="utf-8")
    command = [sys.executable, "-m", "sweeper", "run", str(path), "--runs", str(runs)]
    command += ["--reports", str(runs / "reports"), "--cache-dir", str(study.parent / "cache")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    started = time.perf_counter()
    subprocess.run(command, check=True, cwd=study.parent, capture_output=True, env=environment)
    return time.perf_counter() - started


def main() -> None:
    """Run them one after the other and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--ray", action="store_true", help="Also one worker on Ray.")
    options = parser.parse_args()
    setups = {**SETUPS, **({"one worker on Ray": RAY} if options.ray else {})}
    seconds = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        study = write_study(make("quickstart", folder, 1), folder, options.trials, options.steps)
        for number, (name, compute) in enumerate(setups.items()):
            seconds[name] = run(study, compute, folder / "runs" / str(number))
            say(f"{name}: {seconds[name]:.1f} s")
    found = {
        "trials": options.trials,
        "steps": options.steps,
        "seconds": seconds,
        "share": {name: value / seconds["one worker"] for name, value in seconds.items()},
    }
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
