"""Pure functions on records: what the trials say."""
