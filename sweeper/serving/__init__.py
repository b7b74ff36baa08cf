"""Served models: processes of their own, here or elsewhere, that jobs ask over HTTP.

``client`` asks. ``launch`` says what sweeper starts, ``model_server`` starts, watches and ends it,
``keeper`` is the process in between. What is asked, and what answers mean for a training, belongs
to ``distillation``; when a study serves a model, to ``study``. This room loads no torch.
"""
