"""What a user reads when something is wrong: one line, the value, what was expected, the way out."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


class Mistake(ValueError):
    """The user asked for something that cannot be; the command line exits with 2."""


class Failure(RuntimeError):
    """The world refused (a full disk, a torn file, a stalled thread); the command line exits with 1."""


class Diverged(Failure):
    """What was asked for leads to no numbers: another try of the same would do no better."""


class Overtaken(Failure):
    """Another process goes on with the run, which is no longer this one's to write to or to end."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """`": did you mean 'X'?"`, or the choices where none is near or only the digits differ."""
    options = sorted(choices)
    match = get_close_matches(word, options, n=1, cutoff=0.5)
    if match and _without_digits(match[0]) != _without_digits(word):
        return f": did you mean {match[0]!r}?"
    return f": choose from {', '.join(options)}" if options else ""


def _without_digits(text: str) -> str:
    return re.sub(r"\d", "", text)


def without_secrets(text: str) -> str:
    """Text that names URLs, less their users, passwords and tokens, and the signatures in their queries."""
    text = re.sub(r"(\w+://)[^/\s@:]*(?::(?:\S*|[^/@]*))?@", r"\1", text)
    text = re.sub(r"(\w+://[^\s?]*)\?[^\s'\")]+", r"\1", text)
    return re.sub(r"(?<=\S)\?[\w.-]+=[^\s'\")]+", "", text)
