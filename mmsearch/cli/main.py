"""The command `mmsearch`: its subcommands, and errors as one line and an exit status."""

from __future__ import annotations

import gc
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mmsearch import __version__
from mmsearch.cli import build, doctor, evaluate, exits, index, info, merge, models, query
from mmsearch.cli.output import leave_closed_pipe
from mmsearch.config import Settings
from mmsearch.errors import MmsearchError

app = typer.Typer(
    name="mmsearch",
    help="Search pictures and captions by meaning, on your own machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("index")(index.index)
app.command("query")(query.query)
app.command("eval")(evaluate.evaluate)
app.command("build")(build.build)
app.command("merge")(merge.merge)
app.command("info")(info.info)
app.command("verify")(info.verify)
app.command("models")(models.models)
app.command("doctor")(doctor.doctor)

_LEVELS = ("debug", "info", "warning", "error")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mmsearch {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    log_level: Annotated[
        str, typer.Option("--log-level", metavar="|".join(_LEVELS), help="What is logged on stderr.")
    ] = "warning",
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    if log_level not in _LEVELS:
        raise typer.BadParameter(f"choose one of {', '.join(_LEVELS)}", param_hint="--log-level")
    logging.basicConfig(level=log_level.upper(), stream=sys.stderr, format="mmsearch: %(levelname)s: %(message)s")


def main() -> None:
    """Run the command line and exit."""
    # Importing makes many objects and no garbage: without the collector a cold query is about 5 % faster. A query is
    # over before it could be missed, `index` switches it on again.
    gc.disable()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - it lives as long as the process
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        leave_closed_pipe()
    except (MmsearchError, OSError) as error:
        if _debugging():
            raise
        sys.stderr.write(f"mmsearch: {_sentence(error)}\n")
        raise SystemExit(exits.status_of(error)) from None


def _sentence(error: MmsearchError | OSError) -> str:
    if isinstance(error, OSError) and not isinstance(error, MmsearchError):
        place = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{place}: what was committed before is safe."
    return " ".join(str(error).split())


def _debugging() -> bool:
    try:
        return Settings.from_environment().debug
    except MmsearchError:
        return False


if __name__ == "__main__":
    main()
