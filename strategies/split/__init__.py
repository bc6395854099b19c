"""Split learning on Flower."""
