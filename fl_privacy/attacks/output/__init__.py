"""Attacks on the answers of a model."""
