"""Training data: rows, examples, token sequences and batches, and checks of the models' tokens.

Values that a teacher computes on the data belong to ``teacher``, documents of suites to
``evaluation``. Start with ``training_data.TrainingData``.
"""
