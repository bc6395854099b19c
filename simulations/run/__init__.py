"""The stages of a run, and a finished run opened again."""
