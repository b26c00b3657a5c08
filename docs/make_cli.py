"""Writes docs/cli.md from the commands themselves; with --check, tells whether it is up to date."""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path
from typing import Any

import typer

from mmsearch.cli import exits
from mmsearch.cli.app import app

TARGET = Path(__file__).parent / "cli.md"


def page() -> str:
    """Return the page."""
    group = typer.main.get_command(app)
    parts = ["# The command line\n", "Made by `python docs/make_cli.py` from the commands; do not edit it.\n"]
    parts.append(_section("mmsearch", group))
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        parts.append(_section(f"mmsearch {name}", command))
    parts.append("## Exit statuses\n\nWhat leads to each of them stands in [errors.md](errors.md).\n")
    parts.append("| status | meaning |\n| --- | --- |\n" + "\n".join(_statuses()) + "\n")
    return "\n".join(parts)


def _section(title: str, command: Any) -> str:
    rows = []
    for param in command.params:
        if param.name in ("install_completion", "show_completion"):
            continue
        option = param.param_type_name == "option"
        names = ", ".join(f"`{name}`" for name in param.opts) if option else ""
        metavar = (param.metavar or "").replace("|", " or ")
        value = f" {metavar}" if metavar else ""
        rows.append(f"| {names}{value} | {param.help or ''} |")
    table = "| argument or option | meaning |\n| --- | --- |\n" + "\n".join(rows)
    return f"## {title}\n\n{inspect.cleandoc(command.help or '')}\n\n{table}\n"


def _statuses() -> list[str]:
    rows = {
        0: "done; for `query`, with hits",
        exits.NOTHING_FOUND: "nothing found; for `train`, nothing better",
        exits.USAGE: "`QueryError`: wrong arguments, or a query that means nothing",
        exits.NOTHING_READ: "`UnreadableImage`: a picture cannot be read; for `index`, none of them",
        exits.PROBLEMS_FOUND: "`verify` found damage, or `repair` had to let go of something",
        exits.HELD_BACK: "`index` or `remove` kept items that it would have deleted: look, then run it with `--yes`",
        exits.SOURCE_UNREADABLE: "`index`: a folder cannot be listed; nothing of it was forgotten",
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
