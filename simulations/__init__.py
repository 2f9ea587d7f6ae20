"""Many virtual devices in one process (none yet)."""
