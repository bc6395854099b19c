"""Sweeps: one experiment over a grid of settings and seeds, and the table by which a person decides."""
