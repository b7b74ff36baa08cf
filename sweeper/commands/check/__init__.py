"""What is known of a study before anything is spent on it."""
