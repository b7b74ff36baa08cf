"""Sampling of answers from a model, the student's rollouts and the teacher's outputs.

When to sample, and what becomes of an answer, belongs to ``trainers`` and ``teacher``. Start with
``rollouts.generate``; ``decoding`` is its loop with a key-value cache.
"""
