"""Optuna: one study per arm, asked and told by the coordinator."""
