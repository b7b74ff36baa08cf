"""Recipes, Oumi's training configurations for GKD: into the shape of a study, and back."""
