"""Where jobs run: processes on this machine."""
