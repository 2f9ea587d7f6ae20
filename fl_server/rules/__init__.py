"""Aggregation rules: how the answers of a round become one. One small file each."""
