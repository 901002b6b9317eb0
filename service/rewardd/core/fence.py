"""Quoting text in a prompt so that the text cannot end its own quotation.

A judge reads what a policy wrote, and policies learn to write to judges. The fence is a line that
depends on the whole text it encloses: to close it, a text would have to contain its own digest.
"""

import hashlib


def fenced(text: str) -> str:
    """`text` between two equal lines that occur nowhere in it; the same for the same text."""
    line = f"<<<{_digest(text)}>>>"
    while line in text:
        line = f"<<<{_digest(line + text)}>>>"
    return f"{line}\n{text}\n{line}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
