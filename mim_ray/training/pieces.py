"""In how many pieces a worker takes its part of a batch, so that it fits into memory."""

import platform

import torch
import torch.distributed as dist
from torch import nn

from mim_ray import world
from mim_ray.cost import cost
from mim_ray.data.memory import available_bytes, in_words
from mim_ray.encoders.target import Twin
from mim_ray.errors import Failure, Mistake
from mim_ray.measures.contrast import Contrast
from mim_ray.measures.fourier import BatchSpectrum
from mim_ray.measures.reconstruct import Reconstruct
from mim_ray.run import Run
from mim_ray.training.place import Place
from mim_ray.training.step import rows_of_piece, shares

ROOM = 0.8
"""Share of the free memory that activations may take."""

COPIES = 6
"""Of the weights: themselves, gradients, two moments, a target, a checkpoint in the making."""


def check_sizes(run: Run) -> None:
    """Before anything is begun: whether each number of workers that a run may have can share its batch, as far as
    that can be known without their machines."""
    least, most = max(1, run.least_workers), max(1, run.most_workers)
    for workers in range(least, most + 1):
        try:
            if run.batch < workers:
                raise Mistake(
                    f"batch={run.batch}: leaves some of {workers} workers without a picture: "
                    f"expected {workers} or more"
                )
            check_pieces(run, _pieces(run, workers, run.micro or run.batch), workers)
        except Mistake as mistake:
            if least == most:
                raise
            fewer = f", or fewer than {workers} workers" if workers > least else ""
            raise Mistake(f"workers={run.workers}: may be {workers}, and {mistake}{fewer}") from None


def pieces_that_fit(run: Run, place: Place) -> int:
    """The same for every worker: the most that any of them needs."""
    pieces = _pieces(run, place.world, run.micro or images_that_fit(run, place))
    if place.world > 1:
        agreed = torch.tensor(pieces, device=place.device)
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        pieces = int(agreed)
    check_pieces(run, pieces, place.world)
    return pieces


def _pieces(run: Run, workers: int, at_once: int) -> int:
    """Of the largest share, and none of them empty."""
    rows = shares(run.batch, workers)
    return min(-(-max(rows) // at_once), min(rows))


def pieces_as_before(run: Run, place: Place, before: int, now: int) -> int:
    """Those of a checkpoint by as many workers, for others would add up in another order. `now`: what fits with
    room to spare; where that is more, one of before must still fit without."""
    if now <= before:
        return before
    piece, free = -(-max(shares(run.batch, place.world)) // before), free_bytes(place)
    needed = piece * cost(run).activation_bytes
    if needed > free:
        raise Failure(
            f"the checkpoint was made in pieces of {piece} pictures, which take {in_words(needed)}, and "
            f"{in_words(free)} is free: free some memory, or go on with another number of workers="
        )
    return before


def free_bytes(place: Place) -> int:
    """What each worker of a machine, or of a GPU, may take of it."""
    free = torch.cuda.mem_get_info(place.device)[0] if place.device.type == "cuda" else available_bytes()
    return free // len(sharers(place))


def images_that_fit(run: Run, place: Place) -> int:
    free, needed = free_bytes(place), cost(run)
    room = int(free * ROOM) - 4 * COPIES * needed.parameters
    if room < needed.activation_bytes:
        weights = in_words(4 * COPIES * needed.parameters)
        raise Mistake(
            f"one picture takes {in_words(needed.activation_bytes)} besides {weights} for the weights, "
            f"and {in_words(free)} is free: expected a smaller encoder= or data.crop.size="
        )
    return max(1, room // max(needed.activation_bytes, 1))


def sharers(place: Place) -> list[int]:
    """The ranks that live off the same memory, a machine's or a GPU's."""
    on_gpu = place.device.type == "cuda"
    here = (platform.node(), str(torch.cuda.get_device_properties(place.device).uuid) if on_gpu else "")
    return [rank for rank, there in enumerate(world.gathered_objects(here)) if there == here]


def check_pieces(run: Run, pieces: int, workers: int) -> None:
    """Refuses what would change with the number of pieces."""
    cut = f"batch={run.batch} does not fit {workers} worker{'s' * (workers > 1)} at once"
    way_out = f"expected workers={workers * pieces} or batch={max(1, run.batch // pieces)}"
    measure, target = run.method.measure, run.method.target
    if pieces > 1 and isinstance(measure, Contrast) and measure.loss == "infonce" and isinstance(target, Twin):
        raise Mistake(f"{cut}, and a twin's candidates carry a gradient through the whole batch: {way_out}")
    if pieces > 1 and isinstance(measure, Reconstruct) and isinstance(measure.fourier, BatchSpectrum):
        raise Mistake(f"{cut}, and method.measure.fourier=code compares the mean of the whole batch: {way_out}")
    counts = [rows_of_piece(rows, pieces, piece) for rows in shares(run.batch, workers) for piece in range(pieces)]
    if run.method.shared.mixes and any(count % 2 for count in counts):
        even = 2 * workers * pieces
        raise Mistake(
            f"batch={run.batch} makes an odd piece of {workers * pieces}, and pictures are mixed in pairs: "
            f"expected batch={-(-run.batch // even) * even}"
        )
    if pieces > 1 and run.micro is None and normalises_batches(run):
        raise Mistake(
            f"{cut}, and its batch norms would see pieces of it: {way_out}, "
            f"or micro={run.batch // (workers * pieces)} to let them"
        )


def normalises_batches(run: Run) -> bool:
    with torch.device("meta"):
        model = run.method.build(run.data.crop.size)
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())
