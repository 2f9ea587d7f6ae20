"""How well a model does, apart from any model: intervals, sounds to try it on, counts of what it said."""
