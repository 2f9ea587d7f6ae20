"""A corpus made from nothing: spoken pseudo-words and textures of everyday sound, by formula and seed."""
