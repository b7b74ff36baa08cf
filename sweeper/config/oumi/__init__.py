"""Oumi's training recipes: read into a study, or written from one of its arms.

``keys`` is the table of their keys; start there. Nothing here imports Oumi.
"""
