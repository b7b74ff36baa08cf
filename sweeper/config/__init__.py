"""What a user writes, checked: studies, search spaces, settings and suites."""
