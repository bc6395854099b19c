"""Attacks on the activations of a client segment."""
