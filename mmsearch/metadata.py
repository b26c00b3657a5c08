"""Metadata: what a picture file tells of itself in EXIF, IPTC and XMP.

All of it may be missing, wrong or made to do harm: nothing here raises, every text is bounded and free of control
characters, every number is checked. XMP goes before IPTC (which cuts words off), and both before EXIF.
"""

from __future__ import annotations

import logging
import math
import re
import struct
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, BinaryIO, TypeVar

from PIL import ExifTags, Image

from mmsearch.types import PictureMetadata

MAX_TEXT = 2_000
"""A title, a description or the name of a camera is cut off after so many characters …"""

MAX_KEYWORDS = 100
"""… and keywords after so many, each of at most …"""

MAX_KEYWORD = 200
"""… so many characters."""

MAX_XMP = 1024 * 1024
"""A larger XMP packet (in bytes) is not looked at."""

MAX_EXIF = 128 * 1024
"""EXIF of more bytes is not looked at: twice what a JPEG holds, and its tags may all point at the same large part."""

FIRST_YEAR = 1826
"""No photograph is older."""

_BASE = ExifTags.Base
_TITLE, _CAPTION, _KEYWORDS = (2, 5), (2, 120), (2, 25)  # records and data sets of IPTC
_CHARSET = (1, 90)
_UTF8 = b"\x1b%G"
_XMP_TAG, _IPTC_TAG, _IPTC_RESOURCE = 700, 33723, 0x0404
_DC = "{http://purl.org/dc/elements/1.1/}"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"

# Patterns are compiled at their first use, so that importing this costs a cold query nothing.
# What cameras and programs write where a person would describe the picture.
_BOILERPLATE = r"""(?ix) .*\bdigital\ camera | sony\ dsc | dcim([\\/].*)? | exif[_ ]jpeg[_ ]picture | olympus\ imaging.*
    | samsung | default | untitled | image\ description | ascii | camera | photo | picture | screenshot
    | user\ comments? | charset=\w+.* | binary\ comment | hdrpl? | cof | dav | oznor\w* | mde | sdr | jpeg
    | created\ with\ gimp | lead\ technologies.* | file\ source.* | processed\ with\ .* | [0-9a-f]{32,}"""
_TIME = r"(\d{4})\D(\d\d)\D(\d\d)\D(\d\d)\D(\d\d)\D(\d\d)"
_OFFSET = r"([+-])(\d\d):?(\d\d)"
# Control characters and halves of pairs, and marks that write a line backwards over others.
_UNPRINTABLE = "[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]+"

_log = logging.getLogger(__name__)
T = TypeVar("T")


def exif_of(image: Image.Image) -> Image.Exif:
    """Return the EXIF of an opened picture; an empty one when it is damaged, or larger than any is."""
    stored = image.info.get("exif") or image.info.get("Raw profile type exif") or b""
    if len(stored) > MAX_EXIF:
        return Image.Exif()
    return _guarded(image.getexif, Image.Exif())


def exif_of_tiff(file: BinaryIO) -> Image.Exif:
    """Return the EXIF of a file that is a TIFF inside, like a camera's raw file; an empty one when it is damaged."""
    exif = Image.Exif()
    file.seek(0)
    _guarded(lambda: exif.load_from_fp(file), None)
    return exif


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened picture, 1 to 8; 1 (upright) for what is none."""
    found = _guarded(lambda: exif_of(image).get(_BASE.Orientation), None)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def read_metadata(image: Image.Image) -> PictureMetadata:
    """Return what an opened picture tells of itself; its pixels are not looked at."""
    exif = exif_of(image)
    resources = image.info.get("photoshop")
    iptc = resources.get(_IPTC_RESOURCE) if isinstance(resources, dict) else None
    return metadata_of(exif, xmp=image.info.get("xmp"), iptc=iptc)


def metadata_of(exif: Image.Exif, *, xmp: object = None, iptc: object = None) -> PictureMetadata:
    """Return what EXIF, an XMP packet and IPTC records tell together; the latter may stand in the EXIF as well."""
    if not len(exif) and not xmp and not iptc:
        return PictureMetadata()
    no_details: dict[int, Any] = {}
    details = _guarded(lambda: exif.get_ifd(ExifTags.IFD.Exif), no_details)
    taken_ns, taken_offset = _guarded(lambda: _taken(details), _NEVER)
    latitude, longitude = _guarded(lambda: _position(exif), _NOWHERE)
    tells = (
        _guarded(lambda: _from_xmp(xmp or exif.get(_XMP_TAG)), _NOTHING),
        _guarded(lambda: _from_iptc(_bytes(iptc or exif.get(_IPTC_TAG), exif.endian)), _NOTHING),
        _guarded(lambda: _from_exif(exif, details), _NOTHING),
    )
    return PictureMetadata(
        taken_ns=taken_ns,
        taken_offset=taken_offset,
        camera=_guarded(lambda: _camera(exif), None),
        lens=_guarded(lambda: _lens(details), None),
        latitude=latitude,
        longitude=longitude,
        title=next((title for title, _, _ in tells if title), None),
        description=next((description for _, description, _ in tells if description), None),
        keywords=next((keywords for _, _, keywords in tells if keywords), ()),
    )


def _guarded(read: Callable[[], T], otherwise: T) -> T:
    try:
        return read()
    except Exception as error:  # noqa: BLE001 - Pillow's readers given hostile bytes raise anything at all
        _log.debug("metadata left out: %r", error)
        return otherwise


_NEVER: tuple[int | None, int | None] = (None, None)
_NOWHERE: tuple[float | None, float | None] = (None, None)


# --- numbers --------------------------------------------------------------------------------------------------------


def _taken(details: dict[int, Any]) -> tuple[int | None, int | None]:
    """Return (nanoseconds since 1970, minutes east of UTC or None); a clock without an offset is this machine's."""
    for time, offset, fraction in (
        (_BASE.DateTimeOriginal, _BASE.OffsetTimeOriginal, _BASE.SubsecTimeOriginal),
        (_BASE.DateTimeDigitized, _BASE.OffsetTimeDigitized, _BASE.SubsecTimeDigitized),
    ):
        found = re.match(_TIME, _text(details.get(time)))
        if found is None:
            continue
        try:
            clock = datetime(*map(int, found.groups()))  # type: ignore[arg-type]  # six numbers, no zone
            if not FIRST_YEAR <= clock.year <= datetime.now(UTC).year + 1:
                continue
            minutes = _minutes_east(_text(details.get(offset)))
            zone = None if minutes is None else timezone(timedelta(minutes=minutes))
            seconds = (clock.astimezone() if zone is None else clock.replace(tzinfo=zone)).timestamp()
        except (ValueError, OverflowError, OSError):
            continue
        digits = re.match(r"\d+", _text(details.get(fraction)))
        nanoseconds = int(digits[0][:9].ljust(9, "0")) if digits else 0
        return round(seconds) * 1_000_000_000 + nanoseconds, minutes
    return _NEVER


def _minutes_east(offset: str) -> int | None:
    found = re.fullmatch(_OFFSET, offset)
    if found is None:
        return 0 if offset == "Z" else None
    minutes = int(found[2]) * 60 + int(found[3])
    return (-minutes if found[1] == "-" else minutes) if minutes <= 14 * 60 else None


def _position(exif: Image.Exif) -> tuple[float | None, float | None]:
    if ExifTags.IFD.GPSInfo not in exif:
        return _NOWHERE
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    latitude = _degrees(gps.get(ExifTags.GPS.GPSLatitude), _text(gps.get(ExifTags.GPS.GPSLatitudeRef)), "NS", 90.0)
    longitude = _degrees(gps.get(ExifTags.GPS.GPSLongitude), _text(gps.get(ExifTags.GPS.GPSLongitudeRef)), "EW", 180.0)
    if latitude is None or longitude is None or (latitude, longitude) == (0.0, 0.0):  # what is written without a fix
        return _NOWHERE
    return latitude, longitude


def _degrees(parts: Any, reference: str, signs: str, limit: float) -> float | None:
    """Return degrees, negative for the second of the two signs, to seven places (a centimetre)."""
    sign = reference[:1].upper()
    numbers = [float(part) for part in (parts if isinstance(parts, tuple | list) else (parts,))]
    if not sign or sign not in signs or not 1 <= len(numbers) <= 3:
        return None
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        return None
    degrees = sum(number / 60**place for place, number in enumerate(numbers))
    return round(-degrees if sign == signs[1] else degrees, 7) if degrees <= limit else None


# --- names ----------------------------------------------------------------------------------------------------------


def _camera(exif: Image.Exif) -> str | None:
    make, model = _text(exif.get(_BASE.Make)), _text(exif.get(_BASE.Model))
    if not make or not model:
        return make or model or None
    repeated = model.split()[0].casefold() in make.casefold().split()  # EASTMAN KODAK COMPANY, KODAK DC240
    return model if repeated else f"{make} {model}"[:MAX_TEXT]


def _lens(details: dict[int, Any]) -> str | None:
    lens = _text(details.get(_BASE.LensModel))
    return lens if any(char in "123456789" or char.isalpha() for char in lens.replace("mm f/", "")) else None


# --- texts ----------------------------------------------------------------------------------------------------------

_Told = tuple[str | None, str | None, tuple[str, ...]]
_NOTHING: _Told = (None, None, ())


def _from_xmp(packet: object) -> _Told:
    """Return title, description and keywords of an XMP packet (Dublin Core)."""
    if isinstance(packet, str):
        packet = packet.encode()
    if not isinstance(packet, bytes) or len(packet) > MAX_XMP or b"purl.org/dc/elements" not in packet:
        return _NOTHING
    text = packet.decode("utf-8-sig").strip("\0 \r\n")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # no XMP has any; without them an XML parser reads nothing else
        return _NOTHING
    from xml.etree import ElementTree  # only pictures with XMP need it

    root = ElementTree.fromstring(text)
    keywords = (item.text for bag in root.iter(f"{_DC}subject") for item in bag.iter(f"{_RDF}li"))
    return _phrase(_alternative(root, "title")), _phrase(_alternative(root, "description")), _keywords(keywords)


def _alternative(root: Any, name: str) -> str | None:
    """Return a text that may be there in several languages: the default, else the first."""
    found = [(item.get(_LANG), item.text) for one in root.iter(_DC + name) for item in one.iter(f"{_RDF}li")]
    return next((text for language, text in found if language == "x-default" and text), None) or next(
        (text for _, text in found if text), None
    )


def _from_iptc(records: bytes) -> _Told:
    """Return title, description and keywords of IPTC records: 0x1C, record, data set, length (2 bytes), data."""
    found: dict[tuple[int, int], list[bytes]] = {}
    at = 0
    while at + 5 <= len(records) and records[at] == 0x1C:
        record, data_set, size = struct.unpack_from(">BBH", records, at + 1)
        if size & 0x8000:  # longer than any of these texts may be
            break
        found.setdefault((record, data_set), []).append(records[at + 5 : at + 5 + size])
        at += 5 + size
    is_utf8 = _UTF8 in found.get(_CHARSET, ())

    def texts(key: tuple[int, int]) -> Iterator[str]:
        return (_decoded(data, is_utf8=is_utf8) for data in found.get(key, ()))

    return _phrase(next(texts(_TITLE), None)), _phrase(next(texts(_CAPTION), None)), _keywords(texts(_KEYWORDS))


def _from_exif(exif: Image.Exif, details: dict[int, Any]) -> _Told:
    comment = _user_comment(details.get(_BASE.UserComment), exif.endian)
    descriptions = (exif.get(_BASE.ImageDescription), _wide(exif.get(_BASE.XPComment)), comment)
    keywords = _wide(exif.get(_BASE.XPKeywords)) or ""
    own = (None, _phrase(exif.get(_BASE.Make)), _phrase(exif.get(_BASE.Model)))
    return (
        _phrase(_wide(exif.get(_BASE.XPTitle))),
        next((phrase for phrase in map(_phrase, descriptions) if phrase not in own), None),
        _keywords(keywords.split(";")),
    )


def _wide(value: object) -> str | None:
    """Return what Windows writes: UTF-16, little endian."""
    return _bytes(value).decode("utf-16-le", "replace") if value else None


def _user_comment(value: object, endian: str | None) -> str | None:
    data = _bytes(value)
    code, rest = data[:8], data[8:]
    if code.startswith(b"UNICODE"):
        return _utf16(rest, "utf-16-le" if endian == "<" else "utf-16-be")
    if code.startswith(b"ASCII") or code == bytes(8):
        text = _decoded(rest.rstrip(b"\0 "))
        return text if "\0" not in text else None  # bytes of a program, not words
    return None


def _utf16(data: bytes, told: str) -> str:
    """Return UTF-16 in the order of bytes that makes more letters of it: writers do not keep to the one they tell."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    other = "utf-16-be" if told == "utf-16-le" else "utf-16-le"
    texts = [data.decode(order, "replace") for order in (told, other)]
    return max(texts, key=lambda text: sum(char < "\u0500" for char in text))


# --- cleaning -------------------------------------------------------------------------------------------------------


def _phrase(value: object) -> str | None:
    """Return a text that a person may have written, None when a camera did."""
    text = _text(value)
    return text if any(map(str.isalnum, text)) and not re.fullmatch(_BOILERPLATE, text) else None


def _keywords(values: Iterable[object]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for value in values:
        word = _text(value)[:MAX_KEYWORD]
        if word:
            found.setdefault(word)
        if len(found) == MAX_KEYWORDS:
            break
    return tuple(found)


def _text(value: object) -> str:
    """Return a value as one clean line of at most 2,000 characters; "" for what is no text."""
    if isinstance(value, bytes):
        text = _decoded(value)
    elif isinstance(value, str):
        text = _decoded(value.encode("latin-1")) if _is_latin1(value) else value  # EXIF knows no other, writers do
    else:
        return ""
    words = re.sub(_UNPRINTABLE, " ", text[: 4 * MAX_TEXT].rstrip("\0")).split()
    return unicodedata.normalize("NFC", " ".join(words)[:MAX_TEXT]).rstrip()


def _is_latin1(text: str) -> bool:
    return not text.isascii() and max(text) <= "\xff"


def _decoded(data: bytes, *, is_utf8: bool = False) -> str:
    """Return bytes as UTF-8 where they are, else as Latin-1; with `is_utf8`, what is cut in the middle is left out."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("utf-8", "ignore") if is_utf8 else data.decode("latin-1")


def _bytes(value: object, endian: str | None = None) -> bytes:
    """Return the bytes of a tag, which may have been declared as numbers of one or four bytes."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("latin-1", "replace")
    if isinstance(value, tuple) and all(isinstance(number, int) for number in value):
        return bytes(value) if endian is None else struct.pack(f"{endian}{len(value)}I", *value)
    return b""
