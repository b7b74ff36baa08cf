"""``sweeper init``: the first version of a study, from names or from an Oumi recipe.

Reading and writing recipes belongs in ``config.oumi``. Start with ``draft_study``; ``draft`` holds
the request and writes the files.
"""
