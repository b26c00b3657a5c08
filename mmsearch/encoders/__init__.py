"""Encoders by URI: `load_encoder("compact")`.

A URI is `SCHEME` or `SCHEME:REST`. Packages outside mmsearch add a scheme with an entry point in the group
"mmsearch.encoders": its name is the scheme, its object a function that takes REST (a str, perhaps empty) and a device
(as `find_devices` takes it: "auto", "cpu", "cuda:0", …) and returns an object that keeps the `Encoder` protocol of
`mmsearch.types`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module

from mmsearch.config import Settings
from mmsearch.errors import DeviceError, UnknownEncoder
from mmsearch.runtime.devices import AUTO, check_device
from mmsearch.runtime.plugins import from_plugin, plugins
from mmsearch.types import Encoder, EncoderSpec

DEFAULT_ENCODER = "compact:v6"
ENTRY_POINT_GROUP = "mmsearch.encoders"
_BUILT_IN = {
    "compact": "mmsearch.encoders.compact",
    "open_clip": "mmsearch.encoders.open_clip",
    "tuned": "mmsearch.encoders.tuned",
}
_CPU_ONLY = ("compact",)

Loader = Callable[[str, str], Encoder]


def load_encoder(uri: str = DEFAULT_ENCODER, *, device: str | None = None) -> Encoder:
    """Return the encoder that `uri` names, on a device: None is that of the settings, "auto" the first GPU or the CPU.

    Raise UnknownEncoder, WeightsUnavailable, DeviceError or MissingExtra. An encoder that runs on the CPU alone passes
    over the settings, and refuses another device that is asked for here.
    """
    scheme, _, rest = uri.partition(":")
    chosen = check_device(device or Settings.from_environment().device)
    if scheme in _CPU_ONLY:
        if device is not None and device not in (AUTO, "cpu"):
            raise DeviceError(
                f"{uri} runs on the CPU only: leave --device {device} out, or choose an OpenCLIP encoder."
            )
        chosen = "cpu"
    if scheme in _BUILT_IN:
        loader: Loader = import_module(_BUILT_IN[scheme]).load
        return loader(rest, chosen)
    outside = plugins(ENTRY_POINT_GROUP)
    if scheme not in outside:
        raise UnknownEncoder(_unknown(uri, scheme))
    made: Encoder = from_plugin(outside[scheme], lambda load: load(rest, chosen), Encoder, uri=uri, word="an encoder")
    return made


def difference(bound: EncoderSpec, here: EncoderSpec) -> str:
    """Return how an encoder differs from the one a collection is bound to, as the middle of a sentence."""
    (model, template), (model_here, template_here) = _split_prompt(bound.uri), _split_prompt(here.uri)
    if bound.uri == here.uri:
        return f"is bound to {bound.uri}, whose weights here are others than those it was made with"
    if model == model_here and template != template_here:
        had = f"with the prompt template {template!r}" if template else "without a prompt template"
        return f"is bound to {model} {had}, and here {f'it is {template_here!r}' if template_here else 'there is none'}"
    return f"is bound to the encoder {bound.uri}, and {here.uri} has other weights"


def _split_prompt(uri: str) -> tuple[str, str]:
    """Return the model and the prompt template ("" for none) of a URI."""
    model, _, template = uri.rpartition("#")
    return (model, template) if model and "{}" in template else (uri, "")


def list_encoders() -> tuple[str, ...]:
    """Return the schemes that `load_encoder` knows, sorted."""
    return tuple(sorted({*_BUILT_IN, *plugins(ENTRY_POINT_GROUP)}))


def _unknown(uri: str, scheme: str) -> str:
    known = list_encoders()
    if "/" in uri and ":" not in uri:
        return f"There is no encoder {uri!r}: if it is a model of OpenCLIP, write open_clip:{uri}."
    near = difflib.get_close_matches(scheme, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"There is no encoder {uri!r}{hint}: known are {', '.join(known)}."
