"""Rows as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from fl_privacy.atomic import write_atomic
from fl_privacy.settings import ReadTable


def write_csv(path: Path, rows: Sequence[ReadTable]) -> Path:
    """Write rows with a header line of all their keys; numbers keep every digit, None and what is absent is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_atomic(path, text.getvalue().encode())
