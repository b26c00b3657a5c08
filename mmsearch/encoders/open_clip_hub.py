"""The hubs that OpenCLIP fetches from: first this disk, then the network, else a sentence with the way out."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mmsearch.config import Settings
from mmsearch.errors import EncoderError, MissingExtra, WeightsUnavailable

LOCAL_DIR = "local-dir:"

_CONNECT_SECONDS = 5.0

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_switching = threading.Lock()  # huggingface_hub keeps whether it is offline for the whole process


class OutOfReach(WeightsUnavailable):
    """Something is not on this disk, and where it would come from cannot be reached."""


def with_hub(work: Callable[[], _T]) -> _T:
    """Return work(), done with what is on this disk; only when that does not do, with the network.

    The Hugging Face hub asks its server about every file it has already, and tries for minutes where there is none.
    """
    from huggingface_hub import constants

    with _switching:
        offline, log = constants.HF_HUB_OFFLINE, logging.getLogger("huggingface_hub")
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            constants.HF_HUB_OFFLINE = True
            try:
                return work()
            except OutOfReach:
                if offline or not _may_answer(constants.ENDPOINT):
                    raise
            constants.HF_HUB_OFFLINE = False
            return work()
        finally:
            constants.HF_HUB_OFFLINE = offline
            log.setLevel(level)


@contextmanager
def out_of_reach(name: str, hub: str) -> Iterator[None]:
    """Turn whatever a hub raises into one sentence that says how to get a model here otherwise.

    `hub` is ORG/NAME or ORG/NAME/FILE on the Hugging Face hub, empty for weights from elsewhere.
    """
    try:
        yield
    except (EncoderError, MissingExtra):
        raise
    except Exception as error:  # urllib, huggingface_hub, httpx and transformers each have their own
        _log.debug("open_clip:%s: %s", name, error)
        raise _named(name, hub, error) from error


def _named(name: str, hub: str, error: Exception) -> WeightsUnavailable:
    parts = hub.strip("/").split("/")
    repository, file = "/".join(parts[:2]), "/".join(parts[2:])
    kinds = {type(cause).__name__ for cause in _chain(error)}
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in _chain(error)):
        return WeightsUnavailable(f"There is no room on the disk for open_clip:{name}: free some and try again.")
    if "GatedRepoError" in kinds:
        return WeightsUnavailable(
            f"The owners of {repository} ask for consent first: accept on https://huggingface.co/{repository} and run"
            " 'hf auth login', then try again."
        )
    if "RepositoryNotFoundError" in kinds:
        return WeightsUnavailable(f"The hub has no repository {repository}, or not for you: check the spelling.")
    if not repository:
        how = (
            "put its weights as .safetensors beside its open_clip_config.json and use open_clip:MODEL/PATH.safetensors"
        )
    elif file:
        folder = f"models--{repository.replace('/', '--')}"
        how = (
            f"run 'hf download {repository} {file}' on a machine that can reach it, and copy its folder"
            f" ~/.cache/huggingface/hub/{folder} to the same place here"
        )
    else:
        how = (
            f"run 'hf download {repository} --local-dir DIR' on a machine that can reach it, copy DIR here and use"
            f" open_clip:{LOCAL_DIR}DIR"
        )
    return OutOfReach(f"open_clip:{name} is not on this disk and its hub cannot be reached: {how}.")


def fetch_text_tower(config: dict[str, Any]) -> None:
    """Have the config and tokenizer of a Hugging Face text tower at hand, so that what is out of reach is told here."""
    text = config.get("text_cfg", {})
    if not (text.get("hf_model_name") or text.get("hf_tokenizer_name")):
        return
    transformers = require_transformers()
    if text.get("hf_model_name"):
        transformers.AutoConfig.from_pretrained(text["hf_model_name"])
    if text.get("hf_tokenizer_name"):
        transformers.AutoTokenizer.from_pretrained(text["hf_tokenizer_name"])


def require_transformers() -> ModuleType:
    """Return transformers; raise MissingExtra with the pip command that brings it."""
    try:
        return import_module("transformers")
    except ImportError as error:
        raise MissingExtra('This OpenCLIP model needs transformers: pip install "mmsearch[cpu,clip]".') from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _may_answer(url: str) -> bool:
    """Return False when a server cannot be connected to within some seconds, unless by a proxy."""
    if Settings.from_environment().has_proxy:
        return True
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
