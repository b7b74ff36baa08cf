"""Sweep on-policy distillation (GKD) and compare it fairly with offline distillation.

The package has thirteen rooms, and imports point one way::

    cli > commands > study > execution | search > tracking | reporting > analysis
        > distillation | evaluation > serving > records > config > foundation

To follow a study, start at ``commands.run`` and ``study.coordinator``. To follow one trial, start
at ``execution.worker.trial`` and ``distillation.train``. ``records`` holds what crosses between
them.
"""

__version__ = "0.1.0"
