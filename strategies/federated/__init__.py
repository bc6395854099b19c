"""Gradient sharing and local training on Flower."""
