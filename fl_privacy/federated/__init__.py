"""What a federation's clients compute and its server makes of it."""
