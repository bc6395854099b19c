"""Speed and quality, measured against plain textbook loops that are kept here for comparison."""
