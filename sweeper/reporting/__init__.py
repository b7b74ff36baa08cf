"""Terminal, markdown and plots: functions that return what callers print."""
