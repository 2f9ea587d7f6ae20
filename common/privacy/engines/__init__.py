"""What gives every sample of a batch its own gradient."""
