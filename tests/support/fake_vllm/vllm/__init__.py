"""A package in vLLM's place: a server that starts in no time, and fails as a test asks it to."""
