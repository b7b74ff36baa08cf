"""``sweeper check``: what can be checked of a study before it trains, as findings.

Checks of the study file itself belong in ``config``, the data step's work in ``execution.worker``.
Start with ``run_checks``; ``gate`` runs the same checks when a study begins.
"""
