"""Where jobs run: processes on this machine, or tasks on the nodes of a cluster."""
