"""The library dcor in a process of its own, asked line by line.

It compiles with numba when it is imported, and LLVM aborts the whole process now and then where torch's libraries fill
the addresses near by: in the tests' own process that would end a test run.
"""

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ANSWERS = """
import sys
import dcor, numpy
for line in sys.stdin:
    name, path = line.split()
    with numpy.load(path) as rows:
        print(float(getattr(dcor, name)(rows["x"], rows["z"])), flush=True)
"""


@functools.cache
def _process():
    return subprocess.Popen([sys.executable, "-c", ANSWERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(name, x, z):
    """`dcor.NAME(x, z)` of two arrays of rows.

    Raises:
        RuntimeError: the process has ended; its error is on standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npz"
        np.savez(path, x=x, z=z)
        process = _process()
        process.stdin.write(f"{name} {path}\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    if not answer:
        raise RuntimeError("dcor's process has ended")
    return float(answer)
