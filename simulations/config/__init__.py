"""From names to a checked experiment: the only place that turns one into the other."""
