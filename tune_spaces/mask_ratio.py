"""How much should be hidden, in blocks of which side, of crops how small? For any method: method=simmim.

Blocks are a patch, two or four of them wide, as far as the picture is made of ten whole ones.

Costs: as the method; where hidden patches are dropped, less the more is hidden. Expect high ratios to win for
small blocks, and lower ones for large blocks, which hide the same things for less.
"""

from typing import Any

from ray import tune

METHOD = "mae"
GOAL = "eval/knn_top1"


def space(run: Any) -> dict[str, Any]:
    patch, sides = run.method.encoder.patch, run.data.crop.size
    whole = [scale for scale in (1, 2, 4) if not any(side % (patch * scale) for side in sides)]
    blocks = [patch * scale for scale in whole if sides[0] * sides[1] >= 10 * (patch * scale) ** 2]
    return {
        "method.t1.mask.ratio": tune.uniform(0.3, 0.9),
        "method.t1.mask.block": tune.choice(blocks),
        "data.crop.scale": tune.choice([(0.2, 1.0), (0.5, 1.0), (0.8, 1.0)]),
    }
