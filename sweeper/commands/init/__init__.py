"""``sweeper init``: a study to begin with, from names or from a recipe."""
