"""What a user writes, checked: studies, search spaces, settings and suites.

The models of study files and suites belong here, with the messages about what is wrong in them.
What a study does with them does not. Start with ``loading`` and ``study``.
"""
