"""Learning from clips on one machine."""
