"""The encoding of a text file: UTF-8, what its first bytes say, or what its letters tell."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO

from modelforge.data.read import Bad

Open = Callable[[], AbstractContextManager[IO[bytes]]]

# What the first bytes of a text say, the longest first.
MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
# What a text without a mark may be in: encodings that people save files in. Given all that Python
# knows, a detector takes Western text for one that no machine has written since the nineties.
CANDIDATES = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r"),
    *("gb18030", "big5", "cp932", "euc_jp", "cp949"),
)
CHUNK = 2**20  # bytes read at once
SAMPLE = 2**16  # bytes of lines beyond ASCII that an encoding is told from
FEW = 8  # bytes beyond ASCII that tell nothing
NOISE, TIE = 0.2, 0.02  # the most of charset_normalizer's `chaos`; a lead that tells
# The letters and marks of Western Europe. Text of these alone is in cp1252, where cp1250 would do.
WESTERN = set("àâäáãåæçèéêëìíîïñòóôöõøœùúûüÿßÀÂÄÁÃÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÖÕØŒÙÚÛÜŸ«»‘’“”„–—…€£°§¿¡ºª\xa0•")
ZEROS = 0.3  # share of NUL bytes at even or odd places that makes a text UTF-16
FIX = "save the file as UTF-8"


@dataclass(frozen=True)
class Encoding:
    """How a text is read.

    Attributes:
        codec: For Python.
        name: For a reader; ``UTF-8`` where nothing needs to be said.
        example: A line as it reads in a guessed encoding; empty where nothing was guessed.
    """

    codec: str
    name: str
    example: str = ""


def encoding_of(opened: Open) -> Encoding:
    """The encoding that a whole file is in.

    Args:
        opened: Opens the file's bytes.

    Raises:
        Bad: If it is none, or cannot be told.
    """
    with opened() as stream:
        head = stream.read(CHUNK)
    for mark, name in MARKS:
        if head.startswith(mark):
            if (fault := fault_in(opened, name)) is not None:
                what = f"not {name}, which its first bytes say it is: {fault.error}"
                raise Bad(0, what)
            return Encoding(name, name)
    if (wide := wide_codec(head)) and fault_in(opened, wide) is None:
        return guessed(wide, wide.replace("_", "-").upper(), head.decode(wide, "ignore"))
    fault = fault_in(opened, "utf-8")
    if fault is None:
        return Encoding("utf-8-sig", "UTF-8")
    if (at := head.find(b"\0")) >= 0:
        what = f"NUL byte at byte {at}: not a text file, or damaged"
        raise Bad(head.count(b"\n", 0, at) + 1, what, FIX)
    return told_by_letters(opened, fault)


def guessed(codec: str, name: str, text: str) -> Encoding:
    """A guessed encoding, with the first line beyond ASCII as it reads so."""
    lines = (line.strip() for line in text.splitlines())
    example = next((line for line in lines if not line.isascii()), text[:60])
    first = next((i for i, letter in enumerate(example) if not letter.isascii()), 0)
    return Encoding(codec, name, example[max(0, first - 20) : first + 30])


def wide_codec(head: bytes) -> str:
    """UTF-16 without a mark, by the zeros of its ASCII letters; empty for none."""
    half = max(1, len(head) // 2)
    for begin, codec in ((1, "utf_16_le"), (0, "utf_16_be")):
        if head[begin::2].count(0) > ZEROS * half > head[1 - begin :: 2].count(0):
            return codec
    return ""


@dataclass(frozen=True)
class Fault:
    """The first spot at which bytes are not in an encoding.

    Attributes:
        byte: Its place in the file.
        line: Its line, from 1.
        error: What Python says of it.
    """

    byte: int
    line: int
    error: UnicodeDecodeError

    @property
    def value(self) -> int:
        """The byte that stands there."""
        return self.error.object[self.error.start]


def fault_in(opened: Open, codec: str) -> Fault | None:
    """Where the bytes are not in an encoding, or None.

    Raises:
        Bad: At a byte that is zero, where zeros are no part of letters.
    """
    decoder = codecs.getincrementaldecoder(codec)()
    before, line = 0, 1
    with opened() as stream:
        chunk = b"first"
        while chunk:
            chunk = stream.read(CHUNK)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                broken = error.object[: error.start].count(b"\n")
                return Fault(before - pending + error.start, line + broken, error)
            if "utf" not in codec.lower().replace("utf-8", "") and (at := chunk.find(b"\0")) >= 0:
                what = f"NUL byte at byte {before + at}: not a text file, or damaged"
                raise Bad(line + chunk.count(b"\n", 0, at), what, FIX)
            before, line = before + len(chunk), line + chunk.count(b"\n")
    return None


def told_by_letters(opened: Open, fault: Fault) -> Encoding:
    """The encoding that the letters beyond ASCII tell.

    Raises:
        Bad: If they do not, or there are too few of them.
    """
    from charset_normalizer import from_bytes

    sample = lines_beyond_ascii(opened)
    what = f"not UTF-8 at byte {fault.byte} (0x{fault.value:02x})"
    if sum(byte > 127 for byte in sample) < FEW:
        raise Bad(fault.line, what, FIX)
    found = list(from_bytes(sample, cp_isolation=list(CANDIDATES)))
    best = found[0] if found else None
    if best is None or best.chaos > NOISE:
        raise Bad(fault.line, f"{what}, and in no encoding that its letters tell", FIX)
    alike = [
        match
        for match in found
        if match.chaos <= best.chaos + TIE
        and match.coherence >= best.coherence - TIE
        and (match is best or str(match) != str(best))
    ]
    western = next((match for match in alike if match.encoding == "cp1252"), None)
    if western and all(letter.isascii() or letter in WESTERN for letter in str(western)):
        best, alike = western, [western]
    if len(alike) > 1:
        names = ", ".join(match.encoding for match in alike)
        raise Bad(fault.line, f"{what}, and its letters may be any of {names}", FIX)
    # What the sample does not tell apart, the rest of the file may.
    codec = "cp1252" if "cp1252" in best.could_be_from_charset else best.encoding
    if (other := fault_in(opened, codec)) is not None:
        what += f", nor {codec}, as the lines before it seem to be, at byte {other.byte}"
        raise Bad(other.line, what, FIX)
    return guessed(codec, codec, str(best))


def lines_beyond_ascii(opened: Open) -> bytes:
    """The first lines that are not all ASCII."""
    lines: list[bytes] = []
    size = 0
    with opened() as stream:
        for line in stream:
            if not line.isascii():
                lines.append(line)
                size += len(line)
            if size > SAMPLE:
                break
    return b"".join(lines)
