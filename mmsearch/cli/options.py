"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mmsearch.corpora.records import CorpusOptions

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
ImagesOption = Annotated[
    str | None,
    typer.Option(
        "--images",
        metavar="DIR",
        help="Folder of a corpus's pictures. [default: that of the corpus]",
        show_default=False,
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option("--split", metavar="NAME", help="Part of a Karpathy file: train, val, test, …", show_default=False),
]
ImageColumnOption = Annotated[
    str | None,
    typer.Option("--image-column", metavar="NAME", help="Column of a table that names pictures.", show_default=False),
]
CaptionColumnOption = Annotated[
    str | None,
    typer.Option("--caption-column", metavar="NAME", help="Column of a table with captions.", show_default=False),
]
LabelColumnOption = Annotated[
    str | None,
    typer.Option("--label-column", metavar="NAME", help="Column of a table with classes.", show_default=False),
]
CaptionsOnlyOption = Annotated[
    bool, typer.Option("--captions-only", help="Take the captions of a corpus and leave its pictures out.")
]
IndexOption = Annotated[
    str | None,
    typer.Option(
        "--index",
        metavar="auto|flat|ivfpq|ivfsq8|FACTORY",
        help="The search index to have from now on; FACTORY as FAISS writes it: IVF4096,PQ64np.",
        show_default=False,
    ),
]
RecallOption = Annotated[
    float | None,
    typer.Option(
        "--recall",
        metavar="X",
        min=0.1,
        max=1.0,
        help="The recall@10 to tune the search index to from now on. [default: 0.95]",
        show_default=False,
    ),
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        "--max-pixels", metavar="N", min=1, help="Pixel limit of a picture. [default: 178 million]", show_default=False
    ),
]


RerankerOption = Annotated[
    str | None,
    typer.Option(
        "--reranker",
        metavar="URI",
        help="Rerank with this one. [default with --rerank: the one for the encoder]",
        show_default=False,
    ),
]
CandidatesOption = Annotated[
    int | None,
    typer.Option(
        "--candidates", metavar="N", min=1, max=1000, help="With --rerank: how many. [default: 50]", show_default=False
    ),
]


def corpus_options(
    *,
    images: str | None,
    split: str | None,
    image_column: str | None,
    caption_column: str | None,
    label_column: str | None = None,
    captions_only: bool = False,
) -> CorpusOptions | None:
    """Return how to read corpora, None where nothing was said; raise SourceError when the folder is not there."""
    from mmsearch.config import plain_path
    from mmsearch.corpora.records import CorpusOptions
    from mmsearch.errors import SourceError

    folder = None if images is None else plain_path(images)
    if folder is not None and not folder.is_dir():
        raise SourceError(f"There is no folder {folder} of pictures: check --images.")
    place = None if folder is None else str(folder)
    options = CorpusOptions(place, split, image_column, caption_column, label_column, captions_only)
    return options if options.as_text() else None
