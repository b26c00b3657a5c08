"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

CollectionOption = Annotated[
    str | None,
    typer.Option(
        "--collection",
        "-c",
        metavar="NAME|PATH",
        help="The collection: a name, or a path with a '/' in it. [default: $MMSEARCH_COLLECTION, else 'default']",
        show_default=False,
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Where an OpenCLIP encoder runs: auto, cpu, cuda, cuda:0,cuda:1 or mps. [default: $MMSEARCH_DEVICE, else"
        " 'auto': the first GPU, else the CPU]",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        "--max-pixels", metavar="N", min=1, help="Pixel limit of a picture. [default: 178 million]", show_default=False
    ),
]
