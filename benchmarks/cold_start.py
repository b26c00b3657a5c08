"""How long a command takes from nothing: `mmsearch query` against 1,000 pictures, `--help`, `import mmsearch`.

Bars: query median ≤ 0.9 s, --help ≤ 0.3 s, whole processes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import spread, timed, unpack, verdict

RUNS = 15


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        home, photos = Path(folder) / "home", Path(folder) / "photos"
        unpack("flickr8k-dev-000", photos, 1000)
        timed(["index", str(photos), "-q"], home)
        query = [timed(["query", "a red car"], home)[0] for _ in range(RUNS)]
        print(f"cold query, 1,000 pictures  {spread(query)}; bar 0.9 s {verdict(statistics.median(query) <= 0.9)}")
        picture = str(next(photos.iterdir()))
        by_picture = [timed(["query", picture], home)[0] for _ in range(RUNS)]
        print(f"cold query by a picture     {spread(by_picture)}")
        helped = [timed(["--help"], home)[0] for _ in range(RUNS)]
        print(f"--help                      {spread(helped)}; bar 0.3 s {verdict(statistics.median(helped) <= 0.3)}")
    imports = []
    for _ in range(RUNS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import mmsearch"], check=True)
        imports.append(time.perf_counter() - started)
    print(f"import mmsearch             {spread(imports)}")


if __name__ == "__main__":
    main()
