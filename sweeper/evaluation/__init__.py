"""Scoring by lm-eval: a model and a suite in, scores and per-document records out.

How a job picks a suite and writes scores belongs to ``execution.worker``, statistics on scores to
``analysis``. Start with ``scoring.score``; ``tasks`` loads a suite.
"""
