"""The ``ray`` command for a cluster that only this machine can reach; `make cluster` uses it.

``ray start --node-ip-address=127.0.0.1`` takes the machine's own address all the same, and listens
to the network. Here 127.0.0.1 stays what it is.

    python -m scripts.local_ray start ...   the options of ray start
    python -m scripts.local_ray end PORT    end the nodes of one cluster; ray stop ends them all
"""

from __future__ import annotations

import sys
from contextlib import suppress

HOST = "127.0.0.1"
_SECONDS = 10.0
"""Seconds that processes may take to end before they are killed."""


def start() -> None:
    """Start a node as ``sys.argv`` says."""
    from ray._private import services
    from ray.scripts import scripts

    services.resolve_ip_for_localhost = lambda host: host
    scripts.main()


def end(port: str) -> int:
    """End the nodes of the cluster at ``port``; return how many processes that were."""
    import ray  # noqa: F401  # makes the psutil that it ships importable
    import psutil  # isort: skip

    server = {f"--gcs_server_port={port}", f"--node-ip-address={HOST}"}
    found = []
    for process in psutil.process_iter(["cmdline"]):
        arguments = set(process.info["cmdline"] or ())
        if f"--gcs-address={HOST}:{port}" in arguments or server <= arguments:
            found.append(process)
    # Nodes before what they report to; their workers and agents end with them.
    found.sort(key=lambda process: server <= set(process.info["cmdline"]))
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(found, timeout=_SECONDS)
    for process in left:
        process.kill()
    return len(found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["end"]:
        print(f"Ended {end(sys.argv[2])} processes of Ray.")
    else:
        start()
