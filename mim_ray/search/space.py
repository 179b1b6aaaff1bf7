"""A question: which settings of a method are searched, and between which bounds. The door to Tune's domains."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from ray.tune.search.sample import Categorical, Domain, Float, Integer, LogUniform, Quantized

from mim_ray.errors import Mistake, nearest
from mim_ray.methods import METHODS, resolved
from mim_ray.phrases import as_text
from mim_ray.run import Run
from mim_ray.spaces import space_files

METHOD = "method"
"""The path of the method itself."""

DIGITS = 4
"""Of a number that is drawn, so that it can be typed again."""

NEVER = (
    "name", "storage", "seed", "steps", "workers", "cpus_per_worker", "gpus_per_worker", "resources", "start",
    "eval.", "tracking.", "checkpoint.", "data.train", "data.val", "data.stage",
)  # fmt: skip
"""What all trials share, or they could not be compared, or not take turns on the same workers."""

WHERE = " where "
"""Between a path and the case that one of its domains is for."""

Draw = Mapping[str, object]
"""A value for each name of the space."""


class Space(NamedTuple):
    name: str
    method: str
    domains: dict[str, BaseDistribution]
    """By name: a dotted path, or several that have one value together, and the case where there are cases."""
    only: dict[str, tuple[str, tuple[str, ...]]]
    """Names that exist only where another has one of some values."""
    goal: str
    source: str

    def words(self, draw: Draw) -> dict[str, str]:
        """The overrides of a draw."""
        found: dict[str, str] = {}
        for name, value in self.existing(draw).items():
            found |= dict.fromkeys(paths_of(name), _typed(value, self.domains[name]))
        return found

    def existing(self, draw: Draw) -> dict[str, object]:
        """Without what does not exist in it."""
        return {name: value for name, value in draw.items() if self.exists(name, draw)}

    def in_order(self) -> list[str]:
        """Each name after the one on which its existence depends."""

        def depth(name: str) -> int:
            return 1 + depth(self.only[name][0]) if name in self.only else 0

        return sorted(self.domains, key=depth)

    def exists(self, name: str, draw: Draw) -> bool:
        if name not in self.only:
            return True
        other, values = self.only[name]
        return self.exists(other, draw) and as_text(draw[other]) in values

    def sentence(self, words: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """The method and its overrides, of which a space may choose both."""
        rest = dict(words)
        return rest.pop(METHOD, self.method), rest


def paths_of(name: str) -> list[str]:
    return name.partition(WHERE)[0].split(",")


def load(where: str, fixed: Mapping[str, str]) -> Space:
    """A name of `tune_spaces/` or a file; `fixed`: what is said beside it, on which its bounds may depend."""
    name, source = _source(where)
    return of_source(name, source, fixed)


def of_source(name: str, source: str, fixed: Mapping[str, str]) -> Space:
    module = _executed(name, source)
    method, goal = module.get("METHOD"), module.get("GOAL", "eval/knn_top1")
    if not isinstance(method, str) or not isinstance(goal, str):
        raise Mistake(f"space {name}: expected METHOD = a method's name and GOAL = a metric's, both as text")
    method = fixed.get(METHOD, method)
    if method not in METHODS:
        raise Mistake(f"space {name}: no method {method!r}{nearest(method, METHODS)}")
    asked = module.get("SPACE", module.get("space"))
    if callable(asked):
        words = {path: text for path, text in fixed.items() if path != METHOD}
        asked = _answered(asked, resolved(method, words), name)
    if not isinstance(asked, dict) or not asked:
        raise Mistake(f"space {name}: expected SPACE = {{path: domain, …}}, or space(run) that returns it")
    cases = {_clean(path): _cases(path, domain) for path, domain in asked.items()}
    domains = {one: _distribution(name, one, domain) for case in cases.values() for one, domain, _ in case}
    only = _only(name, module) | {
        one: rule for case in cases.values() for one, _, rule in case if rule is not None
    }
    if wrong := {other for path, (on, _) in only.items() for other in (path, on)} - domains.keys():
        raise Mistake(f"space {name}: ONLY speaks of {min(wrong)!r}{nearest(min(wrong), domains)}")
    for path, (on, values) in only.items():
        choices = getattr(domains[on], "choices", values)
        if wrong := set(values) - set(choices):
            raise Mistake(f"space {name}: {path}: {on}={min(wrong)} is never drawn{nearest(min(wrong), choices)}")
    for path in only:
        seen = [path]
        while seen[-1] in only and len(set(seen)) == len(seen):
            seen.append(only[seen[-1]][0])
        if len(set(seen)) < len(seen):
            raise Mistake(f"space {name}: ONLY goes in a circle: {' on '.join(seen)}")
    space = Space(name, method, domains, only, goal, source)
    paths = [path for joined in cases for path in paths_of(joined)]
    for path in paths:
        if paths.count(path) > 1:
            raise Mistake(f"space {name}: {path} is there twice: expected one domain for it")
        if any(path == never or (path.startswith(never) and never.endswith(".")) for never in NEVER):
            raise Mistake(f"space {name}: {path}: is the same for every trial of a search: leave it out")
        if path in fixed:
            raise Mistake(f"{path}={fixed[path]}: is what {name} searches: leave it out, or write a space without")
    return space


def run_of(space: Space, words: Mapping[str, str], fixed: Mapping[str, str]) -> Run:
    """What a trial would be, or why there is none, in words that name the space and what was drawn."""
    method, drawn = space.sentence(words)
    rest = {path: text for path, text in fixed.items() if path != METHOD}
    with told_at(space, words):
        return resolved(method, {**rest, **drawn})


@contextmanager
def told_at(space: Space, words: Mapping[str, str]) -> Iterator[None]:
    """Refusals name the space and what was drawn."""
    try:
        yield
    except Mistake as mistake:
        where = " ".join(f"{path}={text}" for path, text in words.items())
        raise Mistake(f"space {space.name} at {where}: {mistake}") from None


def _source(where: str) -> tuple[str, str]:
    files = space_files()
    path = files.get(where, Path(where))
    if path.suffix != ".py":
        raise Mistake(f"no space {where!r}{nearest(where, files)}, or a file that ends in .py")
    try:
        return path.stem, path.read_text()
    except OSError as error:
        raise Mistake(f"space {where}: {error.strerror}{nearest(path.stem, files)}") from None


def _executed(name: str, source: str) -> dict[str, Any]:
    """Of a user's own file: any error is theirs, told in a line."""
    module: dict[str, Any] = {"__name__": name}
    try:
        exec(compile(source, f"{name}.py", "exec"), module)
    except (Exception, SystemExit) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise Mistake(f"space {name}{line}: {type(error).__name__}: {error}") from None
    return module


def _answered(question: Callable[[Run], Any], run: Run, name: str) -> Any:
    try:
        return question(run)
    except Exception as error:
        raise Mistake(f"space {name}: space(run) raised {type(error).__name__}: {error}") from None


def _clean(path: object) -> str:
    return ",".join(part.strip() for part in str(path).split(","))


def _cases(path: object, domain: Any) -> list[tuple[str, object, tuple[str, tuple[str, ...]] | None]]:
    """(name, domain, rule) of a path: one, or one for each (other path, value) of a dictionary by these."""
    whole = _clean(path)
    by_case = isinstance(domain, dict) and all(isinstance(key, tuple) and len(key) == 2 for key in domain)
    if not by_case or not domain:
        return [(whole, domain, None)]
    return [
        (f"{whole}{WHERE}{other}={as_text(value)}", one, (_clean(other), (as_text(value),)))
        for (other, value), one in domain.items()
    ]


def _only(name: str, module: Mapping[str, Any]) -> dict[str, tuple[str, tuple[str, ...]]]:
    rules = module.get("ONLY", {})
    wrong = Mistake(f"space {name}: expected ONLY = {{path: (other path, (value, …)), …}}")
    if not isinstance(rules, dict):
        raise wrong
    found = {}
    for path, rule in rules.items():
        if not isinstance(rule, tuple) or len(rule) != 2 or not isinstance(rule[1], tuple | list):
            raise wrong
        found[_clean(path)] = _clean(rule[0]), tuple(map(as_text, rule[1]))
    return found


def _distribution(name: str, path: str, domain: object) -> BaseDistribution:
    if isinstance(domain, dict) and domain.keys() == {"grid_search"} and isinstance(domain["grid_search"], list):
        domain = Categorical(domain["grid_search"])
    if not isinstance(domain, Domain):
        raise Mistake(f"space {name}: {path}={as_text(domain)}: expected one of ray.tune's, as tune.choice")
    if isinstance(domain, Categorical):
        choices = list(dict.fromkeys(map(as_text, domain.categories)))
        if not choices:
            raise Mistake(f"space {name}: {path} is empty: expected at least one value in tune.choice")
        return CategoricalDistribution(choices)
    finite = isinstance(domain, Float | Integer) and math.isfinite(domain.lower) and math.isfinite(domain.upper)
    if not isinstance(domain, Float | Integer) or not finite:
        raise Mistake(f"space {name}: {path}: only tune's choice, uniform, loguniform and randint can be searched")
    sampler, step = domain.get_sampler(), None
    if isinstance(sampler, Quantized):
        sampler, step = sampler.get_sampler(), sampler.q
    whole, logarithmic = isinstance(domain, Integer), isinstance(sampler, LogUniform)
    low, high = domain.lower, domain.upper - 1 if whole and step in (None, 1) else domain.upper
    if step is not None and logarithmic:
        raise Mistake(f"space {name}: {path}: steps and logarithms do not go together: expected tune.choice")
    if step is not None:  # Tune's are multiples of it
        low, high = math.ceil(low / step - 1e-9) * step, math.floor(high / step + 1e-9) * step
    if low > high or (not whole and low == high):
        raise Mistake(f"space {name}: {path} is empty: {domain.lower} to {domain.upper}")
    if whole:
        return IntDistribution(low, high, log=logarithmic, step=step or 1)
    return FloatDistribution(low, high, log=logarithmic, step=step)


def _typed(value: object, domain: BaseDistribution) -> str:
    """As few digits as say it, within the bounds."""
    if not isinstance(value, float) or not isinstance(domain, FloatDistribution):
        return as_text(value)
    short = f"{value:.{DIGITS}g}"
    is_true = domain.step is None and domain.low <= float(short) <= domain.high
    return short if is_true else as_text(value)
