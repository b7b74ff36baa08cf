"""What a worker process does: one job, from its spec to its outcome.

A job is a pure function of its spec and the files that it names by content. It knows neither Optuna
nor MLflow.
"""
