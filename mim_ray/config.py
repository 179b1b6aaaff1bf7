"""Dotted-path overrides over frozen typed specs: `resolve(spec, {"t1.mask.ratio": "0.6"})`."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import SequenceMatcher, get_close_matches
from functools import cache
from itertools import chain, repeat
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mim_ray.errors import Mistake
from mim_ray.phrases import as_text, last_true, one_of, reason


class Spec(BaseModel):
    """Frozen settings; the members of a union are told apart by `kind: Literal["word"] = "word"`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


S = TypeVar("S", bound=Spec)


def parse(words: Sequence[str]) -> dict[str, str]:
    """Overrides as a shell gives them: `["seed=1", "t1.mask=block"]`."""
    overrides: dict[str, str] = {}
    for word in words:
        path, equals, value = word.partition("=")
        if not path or not equals:
            raise Mistake(f"{word!r} is not of the form path=value")
        if path in overrides:
            raise Mistake(f"{path!r} is given twice: {overrides[path]!r} and {value!r}")
        overrides[path] = value
    return overrides


def resolve(spec: S, overrides: Mapping[str, object]) -> S:
    """The spec with all overrides, given as text or as Python objects; longer paths go after shorter ones."""
    for path in sorted(overrides, key=lambda path: path.count(".")):
        if path not in _reachable(type(spec)):
            raise _unknown(type(spec), path)
        spec = _edited(spec, path, overrides[path])
    return _validated(spec)


def drafted(spec: S, overrides: Mapping[str, object]) -> S:
    """The spec with only the kinds that the overrides choose, unchecked: for deciding what else must change."""
    for path in sorted(overrides, key=lambda path: path.count(".")):
        if path in _reachable(type(spec)) and _choices(_reachable(type(spec))[path]):
            spec = _edited(spec, path, overrides[path])
    return spec


def flatten(spec: Spec) -> dict[str, str]:
    """Every setting as text, such that `resolve(default, flatten(spec)) == spec`."""
    flat: dict[str, str] = {}
    for name, value in _values(spec).items():
        field = _fields(type(spec))[name]
        if isinstance(value, Spec):
            if len(_choices(field)) > 1:
                flat[name] = _word(type(value))
            flat |= {f"{name}.{path}": text for path, text in flatten(value).items()}
        else:
            flat[name] = _write(value, field.annotation)
    return flat


def changed(default: S, spec: S) -> dict[str, str]:
    """The fewest overrides that lead from the default to the spec."""
    before = flatten(default)
    needed = {path: text for path, text in flatten(spec).items() if before.get(path) != text}
    for path in reversed(list(needed)):
        fewer = {other: text for other, text in needed.items() if other != path}
        with suppress(Mistake):
            if resolve(default, fewer) == spec:
                needed = fewer
    return needed


def paths(spec_type: type[Spec]) -> list[str]:
    """Every path that takes a value, those of other kinds and of absent optionals included."""
    return [path for path, field in _reachable(spec_type).items() if len(_choices(field)) != 1]


def describe(spec_type: type[Spec]) -> dict[str, str]:
    """The description of every path that has one."""
    return {path: field.description for path, field in _reachable(spec_type).items() if field.description}


# What a spec type holds.


@cache
def _fields(spec_type: type[Spec]) -> dict[str, FieldInfo]:
    return {name: field for name, field in spec_type.model_fields.items() if name != "kind"}


def _values(spec: Spec) -> dict[str, Any]:
    return {name: value for name, value in spec if name in _fields(type(spec))}


def _alternatives(annotation: Any) -> list[Any]:
    """The types an annotation allows: unions opened, Annotated removed."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [one for arm in get_args(annotation) for one in _alternatives(arm)]
    return [annotation]


def _word(spec_type: type[Spec]) -> str:
    return str(spec_type.model_fields["kind"].default) if "kind" in spec_type.model_fields else "on"


def _choices(field: FieldInfo) -> dict[str, type[Spec] | None]:
    """What a nested spec may be, by the word that chooses it; empty for a leaf."""
    arms = _alternatives(field.annotation)
    members = {_word(arm): arm for arm in arms if isinstance(arm, type) and issubclass(arm, Spec)}
    return {**members, "none": None} if members and NoneType in arms else {**members}


@cache
def _reachable(spec_type: type[Spec]) -> dict[str, FieldInfo]:
    """Every dotted path and its field, the first one where kinds share a path."""
    found: dict[str, FieldInfo] = {}
    for name, field in _fields(spec_type).items():
        found[name] = field
        for member in filter(None, _choices(field).values()):
            for path, inner in _reachable(member).items():
                found.setdefault(f"{name}.{path}", inner)
    return found


# Leaves as text, and back.


def _write(value: object, annotation: Any) -> str:
    r"""A leaf as text; where `none` would mean absent, the word itself is `\none`."""
    text = as_text(value)
    ambiguous = value is not None and NoneType in _alternatives(annotation)
    return "\\" + text if ambiguous and re.fullmatch(r"\\*none", text) else text


def _read(text: str, annotation: Any) -> object:
    """The value that `_write` wrote, as far as pydantic does not cast it by itself."""
    arms = _alternatives(annotation)
    if NoneType in arms:
        if text == "none":
            return None
        text = re.sub(r"^\\(\\*none)$", r"\1", text)
    for choice in (choice for arm in arms if get_origin(arm) is Literal for choice in get_args(arm)):
        if text == as_text(choice):
            return choice
    for items in (get_args(arm) for arm in arms if get_origin(arm) is tuple):
        cells = chain.from_iterable(csv.reader(io.StringIO(text, newline="")))
        return tuple(map(_read, cells, repeat(items[0]) if ... in items else chain(items, repeat(str))))
    return text


# Editing makes unvalidated copies; the whole is validated once, at the end.


def _edited(spec: S, path: str, value: object, above: str = "") -> S:
    name, _, below = path.partition(".")
    field, current, here = _fields(type(spec))[name], _values(spec).get(name), f"{above}{name}"
    new: object
    if below:
        new = _edited(_holder(field, current, here, below), below, value, f"{here}.")
    elif _choices(field):
        new = _chosen(field, current, here, value)
    else:
        new = _read(value, field.annotation) if isinstance(value, str) else value
    return spec.model_copy(update={name: new})


def _holder(field: FieldInfo, current: Spec | None, here: str, below: str) -> Spec:
    """The nested spec that a longer path edits; an absent one is turned on if it can be only one."""
    members = {word: member for word, member in _choices(field).items() if member}
    if current is None and len(members) == 1:
        return next(iter(members.values())).model_construct()
    word = _word(type(current)) if current else "none"
    owners = [owner for owner, member in members.items() if below in _reachable(member)]
    if current is None or word not in owners:
        wanted = " or ".join(f"{here}={owner}" for owner in owners)
        raise Mistake(f"'{here}.{below}' belongs to {wanted}, not to {here}={word}")
    return current


def _chosen(field: FieldInfo, current: Spec | None, here: str, value: object) -> Spec | None:
    """The nested spec that a word asks for: its defaults, and what it shares with the current one."""
    choices, word = _choices(field), as_text(value)
    if isinstance(value, Spec) and type(value) in choices.values():
        return value
    if word not in choices and choices.keys() == {"on"}:
        fields = (f"{here}.{name}" for only in choices.values() if only for name in _fields(only))
        raise _refused(here, value, f"set its fields instead: {', '.join(fields)}")
    if word not in choices:
        raise _refused(here, value, one_of(list(choices), word))
    member = choices[word]
    if member is None:
        return None
    shared = {name: old for name, old in current or () if name in _fields(member)}
    return member.model_construct(_fields_set=set(), **shared)


def _validated(spec: S, above: str = "") -> S:
    """The spec checked; what was not set explicitly gives way to the default where it does not fit."""
    values = {
        name: _validated(value, f"{above}{name}.") if isinstance(value, Spec) else value
        for name, value in _values(spec).items()
    }
    while True:
        try:
            return type(spec).model_validate(values)
        except ValidationError as refusal:
            errors = refusal.errors(include_url=False)
            implicit = values.keys() - spec.model_fields_set
            if not implicit:
                raise _misfit(last_true(errors), values, above) from None
            faulty = {error["loc"][0] for error in errors if error["loc"]}
            for name in (implicit & faulty) or implicit:
                del values[name]


# Refusals, in words.


def _unknown(spec_type: type[Spec], path: str) -> Mistake:
    """With the path most like it among those that end in a similar name, or else what the level has."""
    known, level = _reachable(spec_type), path
    while level and level not in known:
        level = level.rpartition(".")[0]
    fields = [each for each in known if each.rpartition(".")[0] == level]
    if not fields:
        return Mistake(f"no field {path!r}: {level!r} has no fields")
    alike = [each for each in known if get_close_matches(path.split(".")[-1], [each.split(".")[-1]])]
    if not alike:
        return Mistake(f"no field {path!r}: choose from {', '.join(fields)}")
    nearest = max(alike, key=lambda each: SequenceMatcher(None, path, each).ratio())
    return Mistake(f"no field {path!r}: did you mean {nearest!r}?")


def _misfit(error: ErrorDetails, values: Mapping[str, object], above: str) -> Mistake:
    """What pydantic found wrong with the values of one spec; a rule that begins with a field gets its path."""
    if not error["loc"]:
        words = " ".join(reason(error).split())
        return Mistake(f"{above}{words}" if words.partition("=")[0] in values else words)
    name = str(error["loc"][0])
    if name not in values:
        return Mistake(f"{above}{name}: expected a value")
    return _refused(f"{above}{name}", values[name], reason(error))


def _refused(path: str, value: object, reason: str) -> Mistake:
    return Mistake(" ".join(f"{path}={as_text(value)}: {reason}".split()))
