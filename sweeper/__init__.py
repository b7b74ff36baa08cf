"""Sweep on-policy distillation (GKD) and compare it fairly with offline distillation."""

__version__ = "0.1.0"
