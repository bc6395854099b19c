"""Split learning: where a model is cut, what its segments compute, who serves whom."""
