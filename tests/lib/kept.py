"""A directory for a long run that is kept where the run has found something."""

import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def kept_if_failed(prefix: str, seed: int) -> Iterator[Path]:
    """Yield a new directory. It goes with the block, or with SIGTERM, unless the block has failed: then it is named."""
    dir = Path(tempfile.mkdtemp(prefix=prefix))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield dir
    except SystemExit:
        shutil.rmtree(dir)
        raise
    except BaseException:
        print(f"kept: {dir}, seed {seed}", file=sys.stderr)
        raise
    with contextlib.suppress(OSError):
        shutil.rmtree(dir)
