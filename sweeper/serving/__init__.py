"""Models that run in processes of their own, and are reached by HTTP.

What is asked of them, and what the answers mean for a training, belongs to ``distillation`` and
``evaluation``.
"""
