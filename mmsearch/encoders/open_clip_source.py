"""From the URI of an OpenCLIP model to the model itself: which weights, which preprocessing, and nothing guessed.

    MODEL/PRETRAINED         a tag of OpenCLIP's table, fetched from its hub: ViT-B-32/laion2b_s34b_b79k
    MODEL/PATH.safetensors   an architecture of OpenCLIP with local weights; open_clip_config.json lies beside them
    local-dir:PATH           a folder with open_clip_config.json, weights, and a tokenizer where the model needs one
    hf-hub:ORG/NAME          the same on the Hugging Face hub

A text with "{}" behind a "#" is a prompt template: MODEL/PRETRAINED#a photo of {}.
Weights are read as safetensors, or by `torch.load(weights_only=True)`: nothing in them is ever executed.
"""

from __future__ import annotations

import difflib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mmsearch.config import plain_path
from mmsearch.encoders.open_clip_hub import (
    LOCAL_DIR,
    OutOfReach,
    fetch_text_tower,
    out_of_reach,
    require_transformers,
    with_hub,
)
from mmsearch.encoders.preprocess import Preprocess
from mmsearch.errors import EncoderError, MissingExtra, UnknownEncoder, WeightsUnavailable
from mmsearch.runtime.devices import is_out_of_memory, require_torch

if TYPE_CHECKING:
    import torch

CONFIG = "open_clip_config.json"
HUB = "hf-hub:"
_SHOWN_TAGS = 4


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A float32 model on the CPU in eval mode, its tokenizer, and how pictures and texts are prepared for it.

    `uri` is what to load it by from any folder, `config` OpenCLIP's description of the towers (`model_cfg`).
    `quick_gelu` tells the activation, which the weights do not.
    """

    uri: str
    config: dict[str, Any]
    model: torch.nn.Module
    tokenizer: Any
    preprocess: Preprocess
    context_length: int
    quick_gelu: bool
    multilingual: bool
    template: str | None


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a model is: what OpenCLIP's `create_model` and `get_tokenizer` take, and the configs found there."""

    uri: str
    name: str  # a model name, local-dir:PATH or hf-hub:ORG/NAME
    pretrained: str | None
    model: dict[str, Any]
    preprocess: dict[str, Any]
    force_quick_gelu: bool = False
    text_cfg: dict[str, Any] | None = None  # in place of the text_cfg that `create_model` finds


def require_open_clip() -> ModuleType:
    """Return OpenCLIP; raise MissingExtra with the pip command that brings it."""
    require_torch()
    try:
        return import_module("open_clip")
    except ImportError as error:
        raise MissingExtra(f'OpenCLIP cannot be loaded ({error}): pip install "mmsearch[cpu,clip]".') from error


def load_model(rest: str) -> LoadedModel:
    """Return the model that a URI without its "open_clip:" names.

    Raise UnknownEncoder for a name nobody knows, WeightsUnavailable where weights are missing, damaged or out of reach,
    EncoderError where the preprocessing would have to be guessed, MissingExtra without OpenCLIP.
    """
    address, template = split_template(rest)
    if address.startswith(LOCAL_DIR):  # a wrong path is told before OpenCLIP, which takes seconds, is imported
        _config_in(plain_path(Path(address.removeprefix(LOCAL_DIR))))
    open_clip = require_open_clip()
    return with_hub(lambda: _load(open_clip, _find(open_clip, address), address, template))


def _load(open_clip: ModuleType, source: _Source, address: str, template: str | None) -> LoadedModel:
    size = source.model.get("vision_cfg", {}).get("image_size", 224)
    try:
        preprocess = Preprocess.from_config({**source.preprocess, "size": size})
    except (ValueError, TypeError) as error:
        raise EncoderError(
            f"How pictures are prepared for open_clip:{address} would have to be guessed: {error} in the preprocess_cfg"
            f" of its {CONFIG}. Put the model's own {CONFIG} there."
        ) from error
    with _failures(address):
        model = open_clip.create_model(
            source.name,
            source.pretrained,
            precision="fp32",
            force_quick_gelu=source.force_quick_gelu,
            force_custom_text=True,  # a text tower of its own can be given shorter rows
            require_pretrained=True,
            weights_only=True,
            **({"text_cfg": source.text_cfg} if source.text_cfg else {}),
        )
    tokenizer = _tokenizer(open_clip, source, address)
    model.eval().requires_grad_(False)
    uri = f"open_clip:{source.uri}" + (f"#{template}" if template else "")
    return LoadedModel(
        uri=uri,
        config=source.model,
        model=model,
        tokenizer=tokenizer,
        preprocess=preprocess,
        context_length=int(tokenizer.context_length),
        quick_gelu=bool(source.model.get("quick_gelu") or source.force_quick_gelu),
        multilingual=is_multilingual(address, source.model),
        template=template,
    )


def _tokenizer(open_clip: ModuleType, source: _Source, address: str) -> Any:
    name = source.model["text_cfg"].get("hf_tokenizer_name")
    if name:
        require_transformers()
    try:
        with warnings.catch_warnings(), _quiet_root_logger():
            warnings.simplefilter("ignore")
            return open_clip.get_tokenizer(source.name)
    except Exception as error:  # transformers, tokenizers and huggingface_hub have their own
        where = source.name.removeprefix(LOCAL_DIR) if source.name.startswith(LOCAL_DIR) else "a folder of its own"
        raise WeightsUnavailable(
            f"The tokenizer of open_clip:{address} cannot be loaded: put the files of {name or 'the tokenizer'}"
            f" (tokenizer.json, tokenizer_config.json) into {where}."
        ) from error


def split_template(rest: str) -> tuple[str, str | None]:
    """Return (address, prompt template or None); raise UnknownEncoder for a template with more than one "{}"."""
    address, mark, template = rest.rpartition("#")
    if not mark or "{}" not in template:
        return rest, None
    if template.count("{}") != 1 or "{" in template.replace("{}", "") or "}" in template.replace("{}", ""):
        raise UnknownEncoder(f"The prompt template {template!r} must hold '{{}}' once, where the text is to stand.")
    return address, template


def is_multilingual(name: str, model: dict[str, Any]) -> bool:
    """Return True when the text tower was trained on many languages, as its name or its tokenizer tells."""
    text = model.get("text_cfg", {})
    words = " ".join([name, str(text.get("hf_model_name", "")), str(text.get("hf_tokenizer_name", ""))]).lower()
    return any(word in words for word in ("xlm", "mt5", "nllb", "i18n", "siglip2", "worldwide", "multilingual"))


# --- where it is ----------------------------------------------------------------------------------------------------


def _find(open_clip: ModuleType, address: str) -> _Source:
    if address.startswith(LOCAL_DIR):
        return _local_dir(Path(address.removeprefix(LOCAL_DIR)))
    if address.startswith(HUB):
        return _hub(address.removeprefix(HUB))
    name, _, pretrained = address.partition("/")
    config = open_clip.get_model_config(name) if name else None
    if config is None:
        near = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.5)
        hint = f": did you mean {' or '.join(near)}?" if near else ": 'mmsearch models' lists them."
        raise UnknownEncoder(f"OpenCLIP has no model {name!r}{hint}")
    if pretrained.endswith(".safetensors"):
        return _local_file(name, config, Path(pretrained))
    if pretrained.endswith((".bin", ".pt", ".pth")):
        raise UnknownEncoder(
            f"Beside a model's name only .safetensors files are taken: put {Path(pretrained).name} into a folder with"
            f" its {CONFIG} and use open_clip:{LOCAL_DIR}FOLDER."
        )
    return _tag(open_clip, name, config, pretrained)


def _tag(open_clip: ModuleType, name: str, config: dict[str, Any], tag: str) -> _Source:
    tags = open_clip.list_pretrained_tags_by_model(name)
    known = open_clip.get_pretrained_cfg(name, tag) if tag else {}
    if not known:
        wrong = f"no weights {tag!r}" if tag else "no weights named"
        choice = ", ".join(f"open_clip:{name}/{t}" for t in tags[:_SHOWN_TAGS]) or f"open_clip:{name}/PATH.safetensors"
        more = f" or another that 'mmsearch models {name}/' lists" if len(tags) > _SHOWN_TAGS else ""
        raise UnknownEncoder(f"open_clip:{name} has {wrong}: choose {choice}{more}.")
    wants_quick, is_quick = bool(known.get("quick_gelu")), bool(config.get("quick_gelu"))
    if is_quick and not wants_quick:
        plain = name.removesuffix("-quickgelu")
        raise UnknownEncoder(f"The weights {tag!r} were not trained with QuickGELU: use open_clip:{plain}/{tag}.")
    with out_of_reach(f"{name}/{tag}", str(known.get("hf_hub", ""))):
        open_clip.download_pretrained(known)
        fetch_text_tower(config)
    return _Source(f"{name}/{tag}", name, tag, config, known, force_quick_gelu=wants_quick and not is_quick)


def _local_file(name: str, config: dict[str, Any], weights: Path) -> _Source:
    weights = plain_path(weights)
    if not weights.is_file():
        raise WeightsUnavailable(f"There are no weights at {weights}: check the path.")
    beside = weights.with_name(CONFIG)
    if not beside.is_file():
        raise EncoderError(
            f"How pictures are prepared for {weights.name} would have to be guessed: put the model's {CONFIG} beside"
            " it."
        )
    described = _read_config(beside)
    other = [key for key in ("embed_dim", "quick_gelu") if described["model_cfg"].get(key) != config.get(key)]
    other += [part for part in ("vision_cfg", "text_cfg") if _differs(described["model_cfg"].get(part), config[part])]
    if other:
        raise EncoderError(
            f"{beside} describes another architecture than {name} ({', '.join(other)}): use"
            f" open_clip:{LOCAL_DIR}{weights.parent} to go by that description."
        )
    try:
        with out_of_reach(f"{name}/{weights}", ""):
            fetch_text_tower(config)
    except OutOfReach as error:
        raise OutOfReach(
            f"The text tower of {name} is not on this disk and its hub cannot be reached: put its tokenizer and config"
            f" into {weights.parent} and use open_clip:{LOCAL_DIR}{weights.parent}."
        ) from error
    return _Source(f"{name}/{weights}", name, str(weights), config, described.get("preprocess_cfg") or {})


def _local_dir(folder: Path) -> _Source:
    folder = plain_path(folder)
    described = _config_in(folder)
    weights = [path for suffix in ("safetensors", "bin", "pth") for path in sorted(folder.glob(f"*.{suffix}"))]
    if not weights:
        raise WeightsUnavailable(
            f"There are no weights (.safetensors, .bin or .pth) in {folder}: download them into it."
        )
    name, model = f"{LOCAL_DIR}{folder}", described["model_cfg"]
    text_cfg = _local_text_tower(folder, model["text_cfg"])
    return _Source(name, name, None, model, described.get("preprocess_cfg") or {}, text_cfg=text_cfg)


def _config_in(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise WeightsUnavailable(
            f"There is no {CONFIG} in {folder}: name the folder that a model was downloaded into (if that of a"
            " collection has moved, with --encoder open_clip:local-dir:NEW)."
        )
    return _read_config(folder / CONFIG)


def _local_text_tower(folder: Path, text: dict[str, Any]) -> dict[str, Any] | None:
    """Return the text_cfg with the config of its Hugging Face tower from the folder, None where OpenCLIP finds it."""
    tower = text.get("hf_model_name")
    if not tower:
        return None
    transformers = require_transformers()
    place = folder / Path(str(tower)).name
    if (place / "config.json").is_file():
        return {**text, "hf_model_name": str(place), "hf_model_pretrained": False}
    try:
        transformers.AutoConfig.from_pretrained(tower)
    except Exception as error:  # huggingface_hub and httpx have their own
        raise OutOfReach(
            f"The config of the text tower {tower} is not on this disk and its hub cannot be reached: put its"
            f" config.json into {place}."
        ) from error
    return None


def _hub(repository: str) -> _Source:
    name = f"{HUB}{repository}"
    if repository.count("/") != 1:
        raise UnknownEncoder(f"{repository!r} is no repository of the hub: write open_clip:{HUB}ORG/NAME.")
    with out_of_reach(name, repository):
        from open_clip.pretrained import download_pretrained_from_hf

        config = _read_config(Path(download_pretrained_from_hf(repository, filename=CONFIG)))
        download_pretrained_from_hf(repository)
        fetch_text_tower(config["model_cfg"])
    return _Source(name, name, None, config["model_cfg"], config.get("preprocess_cfg") or {})


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise WeightsUnavailable(f"{path} cannot be read ({error}): download it again.") from error
    model = config.get("model_cfg") if isinstance(config, dict) else None
    if not isinstance(model, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(model):
        raise WeightsUnavailable(f"{path} describes no OpenCLIP model: put the model's own {CONFIG} there.")
    found: dict[str, Any] = config
    return found


def _differs(described: Any, built_in: dict[str, Any]) -> bool:
    ignored = {"timm_model_pretrained", "hf_model_pretrained"}
    mine = {key: value for key, value in (described or {}).items() if key not in ignored}
    return mine != {key: value for key, value in built_in.items() if key not in ignored}


# --- what can go wrong ----------------------------------------------------------------------------------------------


@contextmanager
def _failures(address: str) -> Iterator[None]:
    """Name the model in whatever goes wrong while it is made, and keep OpenCLIP's own log and warnings to itself."""
    try:
        with warnings.catch_warnings(), _quiet_root_logger():
            warnings.simplefilter("ignore")
            yield
    except MemoryError:
        raise
    except ImportError as error:
        raise MissingExtra(
            f'open_clip:{address} needs another package ({error}): pip install "mmsearch[cpu,clip]".'
        ) from error
    except Exception as error:  # torch, safetensors, timm, transformers
        if "pip install" in str(error):
            raise MissingExtra(f"open_clip:{address} needs another package: {error}") from error
        if is_out_of_memory(error):
            raise WeightsUnavailable(
                f"There is not enough memory for open_clip:{address}: choose a smaller one from 'mmsearch models'."
            ) from error
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsUnavailable(
            f"The weights of open_clip:{address} cannot be used ({lines[0][:200]}): they are damaged or of another"
            " model."
        ) from error


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Drop what OpenCLIP logs meanwhile: it uses the root logger, and would give it a handler where it has none."""
    root = logging.getLogger()

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return "open_clip" not in record.pathname

    handler = logging.NullHandler()
    root.addFilter(from_elsewhere)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.removeFilter(from_elsewhere)
