"""One step of a run on one worker: its part of the global batch, in pieces that fit, then one update."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mim_ray import world
from mim_ray.data.loader import Batch
from mim_ray.draws import Purpose, keys
from mim_ray.encoders.cnn import CNN
from mim_ray.encoders.target import follow, shadow_of
from mim_ray.errors import Failure
from mim_ray.precision import has_bf16
from mim_ray.run import Run
from mim_ray.siamese import Siamese
from mim_ray.training.optim import groups, load_optimiser_tensors, optimiser_for, optimiser_tensors
from mim_ray.training.place import Place
from mim_ray.training.schedule import Plan
from mim_ray.views import Against, Measured
from mim_ray.weights.names import AVERAGE, averaged
from mim_ray.weights.start import begin_with

Tensors = dict[str, Tensor]


class Stepper:
    """Model, optimiser and how a step is taken; the same on every worker."""

    def __init__(self, run: Run, place: Place, plan: Plan, pieces: int) -> None:
        self.run, self.place, self.plan, self.pieces = run, place, plan, pieces
        torch.manual_seed(run.seed)
        self.model = run.method.build(run.data.crop.size, run.seed).to(place.device)
        if isinstance(run.method.encoder, CNN):
            self.model = self.model.to(memory_format=torch.channels_last)
        self.average = None if run.optim.average is None else shadow_of(self.model)
        self.optimiser = optimiser_for(groups(self.model, run.optim), run.optim)
        self.bf16 = all(world.gathered_objects(wants_bf16(run, place.device)))
        stepped: nn.Module = torch.compile(self.model, dynamic=False) if run.compile else self.model  # type: ignore[assignment]
        self.ddp = None
        if place.world > 1:
            self.ddp = stepped = DistributedDataParallel(stepped, gradient_as_bucket_view=True)
            self.ddp.broadcast_buffers = False  # batch statistics are those of all workers anyway
        self._stepped, self.norm = stepped, torch.zeros(())

    def __call__(self, batch: Batch, *, norm: bool = False) -> Measured:
        """Gradients, update, target; what comes back is this worker's share of the mean over all pictures.

        `norm`: whether the gradient's is to be found in `self.norm` afterwards.
        """
        self._draw_anew(batch.step)
        measured = self._gradients(batch)
        clip = self.run.optim.clip
        if norm or clip is not None:
            self.norm = nn.utils.clip_grad_norm_(self._trained(), math.inf if clip is None else clip)
        for group in self.optimiser.param_groups:
            group["lr"] = float(self.plan.lr[batch.step]) * group["scale"]
            group["weight_decay"] = float(self.plan.weight_decay[batch.step]) * group["decays"]
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=self.ddp is None)
        self.model.follow(float(self.plan.momentum[batch.step]))
        if self.average is not None:
            assert self.run.optim.average is not None
            follow(self.average, self.model, self.run.optim.average)
            for mine, its in zip(self.average.buffers(), self.model.buffers(), strict=True):
                mine.copy_(its)
        return measured

    def begin(self) -> None:
        """Where there is nothing to go on from: with the weights that the run is to start with."""
        if self.run.start is not None:
            begin_with(self.model, self.run.start)
        if self.average is not None:
            self.average.load_state_dict(self.model.state_dict())

    def settle(self, batch: Batch) -> None:
        """DDP arranges its buckets anew after the first backward pass, and with them the order of its sums from
        three workers on: done before the first step, so that a resumed run adds as an uninterrupted one does."""
        if self.ddp is None:
            return
        before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        self._gradients(batch)
        self.optimiser.zero_grad(set_to_none=False)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(before[name])

    @property
    def judged(self) -> Siamese:
        """What the run is worth: the average of its weights where one is kept."""
        return self.model if self.average is None else self.average

    def tensors(self) -> tuple[Tensors, Tensors]:
        """Weights and optimiser state, each its own copy in host memory."""
        weights = dict(self.model.state_dict())
        if self.average is not None:
            weights |= {f"{AVERAGE}{name}": weight for name, weight in self.average.state_dict().items()}
        return _copied(weights), _copied(optimiser_tensors(self.model, self.optimiser))

    def is_finite(self) -> bool:
        return all(bool(weight.isfinite().all()) for weight in self.model.parameters())

    def load(self, weights: Tensors, optimiser: Tensors) -> None:
        try:
            own = {name: weight for name, weight in weights.items() if not name.startswith(AVERAGE)}
            self.model.load_state_dict(own)
            if self.average is not None:
                self.average.load_state_dict(averaged(weights))
            load_optimiser_tensors(self.model, self.optimiser, optimiser)
        except (RuntimeError, KeyError, ValueError) as error:
            raise Failure(f"it is of another model: {' '.join(str(error).split())[:200]}") from None

    def _draw_anew(self, step: int) -> None:
        """Whatever torch draws by itself in a step is a function of (seed, step, rank)."""
        key = keys(Purpose.STEP, self.run.seed, step, self.place.rank)
        torch.manual_seed(int(key[0] >> 1))

    def _gradients(self, batch: Batch) -> Measured:
        rows = shares(self.run.batch, self.place.world)
        if self.pieces == 1:
            with world.dividing(rows):
                measured = self._measured(batch.crops, batch.position, batch.labels, ())
                measured = scaled(measured, world.weight())
                measured.loss.backward()
            return measured
        return self._gradients_by_pieces(batch, rows)

    def _gradients_by_pieces(self, batch: Batch, rows: Sequence[int]) -> Measured:
        """For a contrast, the candidates of the whole batch are made first: the loss is that of the batch."""
        cut = pieces_of(rows[self.place.rank], self.pieces)
        against: list[list[Against]] = [[] for _ in cut]
        if self.model.compares_with_the_batch:
            with world.dividing(rows), self.precision():
                against = self.model.compared_with(batch.crops, batch.position, cut)
        total: Measured | None = None
        for number, piece in enumerate(cut):
            last = number == len(cut) - 1
            share = (piece.stop - piece.start) * self.place.world / self.run.batch
            with (
                world.dividing([rows_of_piece(count, self.pieces, number) for count in rows]),
                self._quietly(not last),
            ):
                labels = None if batch.labels is None else batch.labels[piece]
                crops = tuple(crop[piece] for crop in batch.crops)
                measured = self._measured(crops, batch.position[piece], labels, against[number])
                measured = scaled(measured, share)
                measured.loss.backward()
            total = measured if total is None else together(total, measured)
        assert total is not None
        return total

    def _measured(
        self, crops: tuple[Tensor, ...], position: Tensor, labels: Tensor | None, against: Sequence[Against]
    ) -> Measured:
        with self.precision():
            return self._stepped(crops, position, labels, against)  # type: ignore[no-any-return]

    def precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.place.device.type, torch.bfloat16, enabled=self.bf16)

    def _quietly(self, quiet: bool) -> AbstractContextManager[object]:
        return self.ddp.no_sync() if self.ddp is not None and quiet else nullcontext()

    def _trained(self) -> list[nn.Parameter]:
        return [weight for weight in self.model.parameters() if weight.requires_grad]


def shares(batch: int, workers: int) -> list[int]:
    """How many pictures of a batch each worker takes; as the loader divides it."""
    return [batch * (rank + 1) // workers - batch * rank // workers for rank in range(workers)]


def pieces_of(rows: int, pieces: int) -> list[slice]:
    return [slice(rows * number // pieces, rows * (number + 1) // pieces) for number in range(pieces)]


def rows_of_piece(rows: int, pieces: int, number: int) -> int:
    return rows * (number + 1) // pieces - rows * number // pieces


def scaled(measured: Measured, by: float) -> Measured:
    if by == 1:
        return measured
    return Measured(measured.loss * by, {name: part * by for name, part in measured.parts.items()})


def together(one: Measured, other: Measured) -> Measured:
    parts = {name: part + other.parts[name] for name, part in one.parts.items()}
    return Measured(one.loss.detach() + other.loss.detach(), parts)


def wants_bf16(run: Run, device: torch.device) -> bool:
    return has_bf16(device) if run.precision == "auto" else run.precision == "bf16"


def _copied(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
