"""Values that a teacher computes once, and trials share through the cache.

These are its answers to the prompts, its hidden states on fixed sequences, and the KL probe. Its
passes in each training step belong to ``trainers``. Start with ``shared_teacher.SharedTeacher``.
"""
