"""Near-duplicates by MinHash (Broder 1997): texts whose sets of character 5-grams overlap. Signatures lie in a private SQLite file.

A text is compared with those that share a band of its signature: 21 bands of 6 of 126 permutations find 99.8 % of the pairs whose
Jaccard similarity is 0.8. Found ones are kept apart by the similarity that the whole signatures give.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
import zlib
from typing import Any, NamedTuple, Self

BANDS, WIDTH = 21, 6
PERMUTATIONS = BANDS * WIDTH
GRAM = 5
LOOKED_AT = 4000
"""Letters of a text that are compared: longer ones differ or agree before that."""
MOST_COMPARED = 100
"""Texts that one is compared with at most; those that share most bands first."""
_NEITHER = re.compile(r"[\W_]+")
"""What is neither letter nor digit."""


class Like(NamedTuple):
    """An earlier text that is nearly the same. `row`: the number it was given."""

    row: int
    similarity: float


class NearDuplicates:
    """Texts met so far. Use it in a with block."""

    def __init__(self, similarity: float = 0.8) -> None:
        from datasketch import MinHash  # type: ignore[import-untyped]

        self._similarity = similarity
        self._empty = MinHash(num_perm=PERMUTATIONS, hashfunc=zlib.crc32)
        self._db = sqlite3.connect("")
        self._db.execute("CREATE TABLE signatures (row INTEGER PRIMARY KEY, signature BLOB)")
        self._db.execute("CREATE TABLE bands (band INTEGER, part INTEGER, row INTEGER, PRIMARY KEY (band, part, row)) WITHOUT ROWID")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the file."""
        self._db.close()

    def find(self, text: str, row: int) -> Like | None:
        """The most similar earlier text, where there is one that is similar enough; else the text is remembered under `row`.

        A near-duplicate is not remembered: each group is known by its first text.
        """
        import numpy as np

        signature = self._signature(text)
        parts = [(band, zlib.crc32(signature[band * WIDTH:(band + 1) * WIDTH].tobytes())) for band in range(BANDS)]
        where = " OR ".join("(band = ? AND part = ?)" for _ in parts)
        query = (f"SELECT signatures.row, signature FROM (SELECT row, COUNT(*) AS shared FROM bands WHERE {where} GROUP BY row "
                 "ORDER BY shared DESC, row LIMIT ?) AS near JOIN signatures ON signatures.row = near.row")
        best: Like | None = None
        for other, stored in self._db.execute(query, [value for part in parts for value in part] + [MOST_COMPARED]):
            same = float(np.mean(np.frombuffer(stored, dtype=signature.dtype) == signature))
            if same >= self._similarity and (best is None or same > best.similarity):
                best = Like(int(other), same)
        if best is None:
            self._db.execute("INSERT INTO signatures VALUES (?, ?)", (row, signature.tobytes()))
            self._db.executemany("INSERT INTO bands VALUES (?, ?, ?)", [(band, part, row) for band, part in parts])
        return best

    def _signature(self, text: str) -> Any:
        from datasketch import MinHash

        sketch = MinHash(num_perm=PERMUTATIONS, hashfunc=zlib.crc32, permutations=self._empty.permutations, scheme=self._empty.scheme)
        sketch.update_batch(grams(text))
        return sketch.hashvalues


def grams(text: str) -> set[bytes]:
    """5-grams of the text in lower case, with everything but letters and digits as one space. Of bytes: one letter each in English."""
    folded = unicodedata.normalize("NFKC", text[:LOOKED_AT]).casefold()
    plain = _NEITHER.sub(" ", folded).strip().encode("utf-8", "surrogatepass")
    return {plain[start:start + GRAM] for start in range(max(1, len(plain) - GRAM + 1))}
