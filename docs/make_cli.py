"""Writes docs/cli.md from the commands themselves; with --check, tells whether it is up to date."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from mmsearch.cli import exits

COMMANDS = ("index", "query", "info", "verify", "doctor")
TARGET = Path(__file__).parent / "cli.md"


def page() -> str:
    """Return the page."""
    parts = ["# The command line\n", "Made by `python docs/make_cli.py` from the commands; do not edit it.\n"]
    for command in ([], *([name] for name in COMMANDS)):
        title = " ".join(["mmsearch", *command])
        parts.append(f"## {title}\n\n```text\n{_help(command)}\n```\n")
    parts.append("## Exit statuses\n\n| status | meaning |\n| --- | --- |\n" + "\n".join(_statuses()) + "\n")
    return "\n".join(parts)


def _help(command: list[str]) -> str:
    env = {**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
    script = "import sys; sys.argv[0] = 'mmsearch'; from mmsearch.cli.main import main; main()"
    arguments = [sys.executable, "-c", script, *command, "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=env)
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def _statuses() -> list[str]:
    rows = {
        0: "done; for `query`, with hits",
        exits.NOTHING_FOUND: "nothing found",
        exits.USAGE: "wrong usage (also `QueryError`)",
        exits.PROBLEMS_FOUND: "`verify` found problems",
        exits.HELD_BACK: "`index` kept items that it would have deleted: look, then run it with `--yes`",
        exits.INTERRUPTED: "interrupted; everything so far is kept",
    }
    for kind, status in exits.BY_ERROR:
        rows.setdefault(status, f"`{kind.__name__}`: {(kind.__doc__ or '').strip().splitlines()[0]}")
    rows[17] = "`OSError`: the disk or its permissions"
    return [f"| {status} | {rows[status]} |" for status in sorted(rows)]


def main() -> int:
    """Write or check the page; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    made = page()
    if parser.parse_args().check:
        if TARGET.read_text() == made:
            return 0
        sys.stderr.write("docs/cli.md is out of date: run 'python docs/make_cli.py'\n")
        return 1
    TARGET.write_text(made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
