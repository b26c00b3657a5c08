"""The subcommands of `mmsearch`, put together."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from mmsearch import __version__
from mmsearch.cli import (
    build,
    care,
    doctor,
    evaluate,
    explain,
    index,
    info,
    keeping,
    listing,
    merge,
    models,
    query,
    train,
)

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
app.command("explain")(explain.explain)
app.command("list")(listing.list_items)
app.command("eval")(evaluate.evaluate)
app.command("train")(train.train)
app.command("build")(build.build)
app.command("merge")(merge.merge)
app.command("remove")(keeping.remove)
app.command("relocate")(keeping.relocate)
app.command("export")(keeping.export)
app.command("import")(keeping.import_)
app.command("info")(info.info)
app.command("verify")(info.verify)
app.command("repair")(care.repair)
app.command("compact")(care.compact)
app.command("models")(models.models)
app.command("doctor")(doctor.doctor)

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""Click's UsageError, for which Typer has no name."""

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
