"""The coordinator of a study: prepare, search, confirm, and resume after an interruption.

What belongs here: decisions about a study as a whole, and the reading of what it left on disk. Not
here: Optuna (``search``), where jobs run (``execution``), statistics (``analysis``). Start with
``coordinator``; ``trials`` starts and ends one trial, ``preparation`` what comes before them.
"""
