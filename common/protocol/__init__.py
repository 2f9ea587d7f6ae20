"""The messages of a round and the release, as typed values and as bytes."""
