"""Where progress goes."""

from collections.abc import Callable

Note = Callable[[str], None]
"""Takes progress, one line at a time."""
