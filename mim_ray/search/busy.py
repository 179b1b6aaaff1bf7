"""How much of the time that a search had its workers they trained, over all of its sittings."""

import json

from mim_ray.storage import Folder

BUSY = "busy.json"


def busy_share(search: Folder, trained: float, had: float) -> float | None:
    """With a sitting that has `trained` for so many seconds of those that it `had`; one in which nothing was
    trained, as where the winner alone was left, says nothing. None: there was no other."""
    before = dict(json.loads(search.read(BUSY))) if search.has(BUSY) else {"trained": 0.0, "had": 0.0}
    if trained > 0:
        before = {"trained": before["trained"] + trained, "had": before["had"] + had}
        search.write(BUSY, json.dumps(before).encode())
    return before["trained"] / before["had"] if before["had"] else None
