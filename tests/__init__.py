"""Tests of ``sweeper``; their folders mirror the rooms of the package."""
