"""From sound files and samples to features."""
