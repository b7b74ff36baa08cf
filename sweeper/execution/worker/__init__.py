"""What happens inside a job's process: one job, from its spec to its outcome.

A job is a pure function of its spec and the files that it names by content; Optuna and MLflow do
not belong here. Start with ``process``, then ``run``, which calls ``trial`` and the other steps.
"""
