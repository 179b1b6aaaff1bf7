"""What pydantic finds wrong, as what was expected."""

import csv
import io
import re
from collections.abc import Sequence
from difflib import get_close_matches

from pydantic import BaseModel
from pydantic_core import ErrorDetails

PHRASES = (
    (r"^Input should be a valid boolean.*", "true or false"),
    (r"^Input should be a valid integer.*", "an integer"),
    (r"^Input should be a valid (number|string).*", r"a \1"),
    (r"^Input should be a valid tuple", "values separated by commas"),
    (r"^Input is not a valid path.*", "a path"),
    (r"^Input should be ", ""),
    (r"^String should have", "a string with"),
    (r"^String should match", "a string that matches"),
    (r"^Tuple should have (.*?) items? after.*", r"\1 values separated by commas"),
)


def as_text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        row = io.StringIO()
        csv.writer(row).writerow(map(as_text, value))
        return row.getvalue().removesuffix("\r\n")
    return repr(value) if isinstance(value, BaseModel) else str(value)


def reason(error: ErrorDetails) -> str:
    """Pydantic's complaint as what was expected; a validator's own message stays as it is."""
    words, context = error["msg"], error.get("ctx", {})
    if "error" in context:
        return str(context["error"])
    if error["type"] == "literal_error":
        return one_of(re.split(", | or ", context["expected"].replace("'", "")), as_text(error["input"]))
    if error["type"] == "missing":
        return f"expected {int(error['loc'][-1]) + 1} values separated by commas"
    number = "an integer" if any(isinstance(limit, int) for limit in context.values()) else "a number"
    words = re.sub("^Input should be (?=greater|less)", f"{number} ", words)
    for theirs, ours in PHRASES:
        words = re.sub(theirs, ours, words)
    if error["loc"] and isinstance(error["loc"][-1], int):  # one of several
        words = re.sub(r"^an? (integer|number)( .+)?$", _several, words)
    return f"expected {words}"


def last_true(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """Where values are refused pydantic also finds them too few, for it counts those that are left."""
    return [
        error
        for error in errors
        if error["type"] != "too_short" or len(error["input"]) < error["ctx"]["min_length"]
    ][-1]


def _several(one: re.Match[str]) -> str:
    kind, limit = one.groups()
    return f"{kind}s{limit}, separated by commas" if limit else f"{kind}s separated by commas"


def one_of(choices: Sequence[str], word: str) -> str:
    match = get_close_matches(word, choices, n=1)
    listed = " or ".join(", ".join(choices).rsplit(", ", 1))
    return f"expected {listed}" + (f": did you mean {match[0]!r}?" if match else "")
