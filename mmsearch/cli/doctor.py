"""`mmsearch doctor`: what this machine and installation are like."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mmsearch import __version__
from mmsearch.cli.options import CollectionOption, JsonOption
from mmsearch.cli.output import human_bytes, to_json, write

_PACKAGES = ("numpy", "pillow", "sqlalchemy", "alembic", "tokenizers", "torch", "open_clip_torch")
_CPU_FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd")
_MAKE_ONE = "make one with 'mmsearch index FOLDER'"


def doctor(collection: CollectionOption = None, as_json: JsonOption = False) -> None:
    """Tell versions, extras, CPU features, threads and the file system, and what is wrong with them."""
    import platform
    import sqlite3

    from mmsearch.collection.filesystem import existing, file_system
    from mmsearch.collection.layout import Layout
    from mmsearch.config import Settings
    from mmsearch.encoders import list_encoders
    from mmsearch.runtime import devices, onnx
    from mmsearch.vectors import backend

    settings = Settings.from_environment()
    folder = settings.collection_path(collection)
    facts = {
        "mmsearch": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "sqlite": sqlite3.sqlite_version,
        **{name: found for name in _PACKAGES if (found := _installed(name))},
        **onnx.versions(),
        **devices.versions(),
        **backend.versions(),
        "encoders": ", ".join(list_encoders()),
        "extras": ", ".join(_extras()) or "none",
        "cpu features": ", ".join(_cpu_features()) or "unknown",
        "threads": str(settings.threads),
        "home": str(settings.home),
        "collection": str(folder) if Layout(folder).manifest.exists() else f"{folder} (no collection yet: {_MAKE_ONE})",
        "file system": file_system(folder),
        "free space": human_bytes(shutil.disk_usage(existing(folder)).free),
    }
    problems = _problems(facts, folder)
    if as_json:
        write(to_json({"facts": facts, "problems": problems}))
        return
    for name, value in facts.items():
        write(f"{name:<16} {value}")
    for problem in problems:
        write(f"problem          {problem}")


def _problems(facts: dict[str, str], folder: Path) -> list[str]:
    from mmsearch.collection.filesystem import existing, refuse_network
    from mmsearch.errors import NetworkFileSystem
    from mmsearch.vectors.backend import HOW_TO_GET_FAISS

    problems = []
    if "faiss" not in facts:
        problems.append(f"FAISS is missing, so search is exact and there is no IVF-PQ: {HOW_TO_GET_FAISS}")
    if " and " in facts.get("faiss package", ""):
        problems.append(
            "faiss-cpu and faiss-gpu are both installed and overwrite each other: uninstall both, then one."
        )
    try:
        refuse_network(folder)
    except NetworkFileSystem as error:
        problems.append(str(error))
    if not os.access(existing(folder), os.W_OK):
        problems.append(f"{existing(folder)} cannot be written: collections there can only be searched.")
    return problems


def _extras() -> list[str]:
    """Return the extras whose packages are all here."""
    needs = {
        "cpu": ("faiss-cpu",),
        "gpu": ("faiss-gpu", "torch", "open_clip_torch"),
        "clip": ("torch", "open_clip_torch"),
    }
    return [extra for extra, packages in needs.items() if all(map(_installed, packages))]


def _installed(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_features() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [flag for flag in _CPU_FLAGS if flag in flags]
