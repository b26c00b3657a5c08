"""The encoder of a collection, and the sentence for somebody who does not have it: what to do instead."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsearch.config import Settings
from mmsearch.encoders import DEFAULT_ENCODER, load_encoder
from mmsearch.errors import UnknownEncoder
from mmsearch.types import Encoder, EncoderSpec


def own_encoder(root: Path, spec: EncoderSpec, *, device: str | None = None) -> Encoder:
    """Return the encoder that the collection at `root` says it is bound to; see `load_encoder` and `naming_the_way`.

    Its weights may be others than those that the collection was made with: whoever uses it compares fingerprints.
    """
    with naming_the_way(root, spec):
        return load_encoder(spec.uri, device=device)


@contextmanager
def naming_the_way(root: Path, spec: EncoderSpec) -> Iterator[None]:
    """Let an UnknownEncoder, raised for a collection's own encoder, say how the collection moves to another one."""
    try:
        yield
    except UnknownEncoder as error:
        raise UnknownEncoder(
            f"The collection {root} is bound to {spec.uri}, which cannot be loaded here ({str(error).rstrip('.')}):"
            f" move it to {DEFAULT_ENCODER} with '{reembed_command(root)}', which keeps all its items."
        ) from error


def reembed_command(root: Path, uri: str = DEFAULT_ENCODER) -> str:
    """Return the command that moves the collection at `root` to an encoder."""
    command = ["mmsearch", "index", "--reembed"]
    if uri != DEFAULT_ENCODER:
        command += ["--encoder", uri]
    if root != Settings.from_environment().collection_path():
        command += ["--collection", str(root)]
    return shlex.join(command)
