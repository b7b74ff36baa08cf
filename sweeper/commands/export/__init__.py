"""``sweeper export``: a study's winner as a recipe, or as a model directory with its card."""
