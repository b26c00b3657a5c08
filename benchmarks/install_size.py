"""How much a fresh `pip install "mmsearch[cpu]"` brings onto the disk, without what venv and pip bring themselves.

Bar: under 450 MB, and no torch.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import ROOT, verdict


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "venv"
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        python = place / "bin" / "python"
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", f"{ROOT}[cpu]"], check=True)
        total = sum(path.stat().st_size for path in place.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6
        listed = subprocess.run([str(python), "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
        torch = any(line.startswith("torch ") for line in listed.splitlines())
        met = total < 450 and not torch
        print(f"fresh environment with mmsearch[cpu]: {total:.0f} MB, torch in it: {torch}; bar 450 MB {verdict(met)}")
        largest = sorted((place / "lib").glob("python*/site-packages/*"), key=_size, reverse=True)[:6]
        print("largest: " + ", ".join(f"{path.name} {_size(path) / 1e6:.0f} MB" for path in largest))


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    main()
