"""Scripts that made the models and suite data of this repository; not shipped with the package.

The cards in ``sweeper/config/builtin/models`` name these scripts by their former paths. A study
finds its cached warm start by a hash of the model's folder, card included, so cards do not change.
"""
