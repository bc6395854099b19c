"""What an experiment is: plain frozen data."""
