"""The real-time process: frames in, events out, no torch."""
