"""Optuna: one study an arm, which the coordinator asks for trials and tells their outcomes.

Samplers, pruners and the storage belong here; running trials and stopping a search do not. Start
with ``arm_search``.
"""
