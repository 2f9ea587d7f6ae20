"""Labelled clips: reading, splitting, partitioning, making."""
