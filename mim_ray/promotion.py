"""A version takes an alias if a score of the same data and protocol says that it is better."""

from typing import Any

from mim_ray.errors import Mistake
from mim_ray.scores import worth
from mim_ray.tracking.ranking import differences, score
from mim_ray.tracking.registry import CHAMPION, PREVIOUS, Version, set_champion, version_of


def promoted(
    uri: str,
    model: str,
    metric: str,
    alias: str = CHAMPION,
    *,
    protocol: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """`model`: name/version; `protocol`: whose judgings of both are compared; what comes back is JSON."""
    if alias == PREVIOUS:
        raise Mistake(f"alias={PREVIOUS}: it is given to what had the alias before: expected {CHAMPION}, say")
    new = version_of(uri, model)

    def earned(old: Version) -> None:
        if force:
            return
        if new.run_id is None or old.run_id is None:
            raise Mistake(f"{model} or {new.name}@{alias} is of no run, so nothing can be compared: --force")
        where = {} if protocol is None else {"protocol": protocol}
        candidate, champion = (score(uri, run_id, metric, where) for run_id in (new.run_id, old.run_id))
        if unlike := differences(candidate, champion):
            raise Mistake(f"{metric} of {model} and of {new.name}@{alias} cannot be compared: {'; '.join(unlike)}")
        ahead = candidate.value - champion.value
        if worth(metric, ahead) <= 0:
            words = f"{metric} is {candidate.value:.4f}, and {champion.value:.4f} of {new.name}@{alias}"
            raise Mistake(f"{model} is not better: {words}: --force")

    before = set_champion(uri, new, alias, earned)
    return {"name": new.name, "version": new.version, "alias": alias, "previous": before and before.version}
