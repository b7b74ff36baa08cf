"""MLflow: the record of a study for people, from which no decision is ever read back.

What belongs here: which runs, tags, parameters and metrics a study has. Not here: what a report
shows. Start with ``tracker``, the contract; ``mapping`` names everything that is written.
"""
