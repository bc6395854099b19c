"""What attacks on any channel search images with: priors of them, Gauss-Newton, and descent."""
