"""Where jobs run: processes on this machine, or tasks on the nodes of a Ray cluster.

``executor`` is the protocol, ``local`` and ``ray_cluster`` implement it, ``device_sharing`` divides
a machine. What happens inside a job's process belongs to ``worker``; when jobs run, to ``study``.
"""
