"""A temporary folder that is removed at the end, also if that is a SIGKILL.

Nobody who is killed can tidy up. So a child waits for the end of its stdin,
which is the end of us, and removes the folder. It has a session of its own: the
stop button and the end of a kernel reach all others.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

# Our other children end at the same time, and may write until they do.
SWEEP = """
import sys
sys.stdin.read()
import os, shutil, time
for _ in range(50):
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    if not os.path.exists(sys.argv[1]):
        break
    time.sleep(0.1)
"""


@contextmanager
def swept_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder, for as long as this block or this process lives."""
    with TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        # Alone (-I) and without site-packages (-S) it starts in 10 ms.
        command = [sys.executable, "-I", "-S", "-c", SWEEP, folder]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as sweeper:
            try:
                yield Path(folder)
            finally:
                sweeper.kill()  # what follows is ours to do
