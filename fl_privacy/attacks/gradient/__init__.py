"""Attacks on gradients and weight updates."""
