"""Served models: processes of their own that the jobs of a study ask over HTTP.

``launch`` says what is started, ``model_server`` starts, watches and ends it, ``keeper`` is the
process in between. What a study serves, and when, belongs to ``study``; this room loads no torch.
"""
