"""A chain of defences as one line of text: what a label says, read back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fl_privacy.defences.base import Chain, chain

FORM = "'clip(norm=1.0) + gaussian_noise(scale=0.1)', or 'none'"
MEMBER = re.compile(r"\s*([\w.:-]+)\s*(?:\((.*)\))?\s*", re.DOTALL)


def chain_of(given: Chain | str | Sequence[Mapping[str, Any]]) -> Chain:
    """A chain from itself, from tables ({'name': ..., setting: value}), or from text such as its label.

    Raises:
        ValueError: the text has another form. UnknownName: no such defence or setting.
    """
    if isinstance(given, Chain):
        return given
    if not isinstance(given, str):
        return chain(list(given))
    if given.strip() in ("", "none"):
        return Chain()
    return chain([_member(part) for part in _parts(given, "+")])


def _member(text: str) -> dict[str, Any]:
    found = MEMBER.fullmatch(text)
    if not found:
        raise ValueError(f"a chain of defences is written {FORM}, and '{text.strip()}' is no member of one")
    settings: dict[str, Any] = {"name": found[1]}
    for part in _parts(found[2] or "", ","):
        key, equals, value = part.partition("=")
        if not equals or not key.strip().isidentifier():
            raise ValueError(f"settings are written {found[1]}(name=value, ...), and '{part.strip()}' is none")
        settings[key.strip()] = _value(value.strip())
    return settings


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):  # a label writes text without quotes
        return text
    except (TypeError, RecursionError, MemoryError) as error:  # the text may be a stranger's, such as a client's
        raise ValueError(f"'{text[:40]}' is no value of a setting: {error}") from error


def _parts(text: str, sign: str) -> Iterator[str]:
    """The pieces between signs outside brackets and quotes; none of empty text."""
    depth, quote, start = 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == sign and depth == 0 and not re.search(r"\d[eE]$", text[:place]):
            yield text[start:place]
            start = place + 1
    if text[start:].strip() or start:
        yield text[start:]
