"""Read an experiment: checks first, then effects with their intervals, then a verdict."""
