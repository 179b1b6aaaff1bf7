"""The first sentence of the house: MAE is built, sees only what it may see, and learns."""

import numpy as np
import pytest
import torch

from mim_ray.blocks import patchified
from mim_ray.draws import Purpose
from mim_ray.errors import Mistake
from mim_ray.measures.reconstruct import patch_normalised
from mim_ray.methods import METHODS, resolved
from mim_ray.siamese import Siamese
from mim_ray.transforms.mask import ComplementMask, RandomMask, _mixed
from mim_ray.transforms.pixels import normalised

SIZE = (32, 32)
MICRO = {
    "encoder": "micro", "method.encoder.patch": 4, "method.measure.head.width": 64,
    "method.measure.head.depth": 1, "method.measure.head.heads": 4,
}  # fmt: skip


def micro_mae(**overrides: object) -> Siamese:
    torch.manual_seed(0)
    return resolved("mae", MICRO | overrides).method.build(SIZE)


def crops(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8, generator=draw), torch.arange(count)


def test_every_parameter_gets_a_gradient_and_the_loss_falls() -> None:
    model, (pixels, position) = micro_mae(), crops()
    smooth = torch.nn.functional.avg_pool2d(pixels.float(), 5, 1, 2).byte()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(20):
        loss = model((smooth,), position).loss
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_a_hidden_pixel_changes_no_token() -> None:
    model, (pixels, position) = micro_mae(), crops(2)
    view = model.t1(pixels, position, patches=64, seed=0, view=0, partner=None)
    assert view.hiding is not None
    tokens = model.online(view)
    hidden = int(view.hiding.hidden[0, 0])
    row, column = divmod(hidden, 8)
    changed = view.pixels.clone()
    changed[0, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1.0
    assert torch.equal(tokens.patches, model.online(view._replace(pixels=changed)).patches)


def test_the_mask_is_a_function_of_seed_and_position_alone() -> None:
    mask = RandomMask(ratio=0.75)
    together = mask.hiding(64, torch.arange(20), 0, 0, None)
    apart = mask.hiding(64, torch.arange(10, 20), 0, 0, None)
    assert torch.equal(together.order[10:], apart.order)
    assert together.shown == 16
    assert not torch.equal(together.order, mask.hiding(64, torch.arange(20), 1, 0, None).order)
    assert not torch.equal(together.order, mask.hiding(64, torch.arange(20), 0, 1, None).order)
    assert not torch.equal(
        mask.hiding(64, torch.arange(9), 1, 0, None).order, mask.hiding(64, torch.arange(9), 0, 256, None).order
    )
    assert mask.hiding(64, torch.arange(9), (1 << 63) - 1, 0, None).shown == 16  # the largest seed of a run
    shares = torch.bincount(mask.hiding(64, torch.arange(4000), 0, 0, None).hidden.flatten()) / 4000
    assert (shares - 0.75).abs().max() < 0.04


def test_the_complement_hides_what_its_partner_shows() -> None:
    first = RandomMask(ratio=0.75).hiding(64, torch.arange(5), 0, 0, None)
    second = ComplementMask().hiding(64, torch.arange(5), 0, 1, first)
    assert torch.equal(second.hidden, first.kept)
    assert torch.equal(second.kept, first.hidden)
    with pytest.raises(Mistake, match="its complement would be empty"):
        ComplementMask().hiding(64, torch.arange(5), 0, 1, None)


def test_the_loss_is_the_mean_over_hidden_patches_written_slowly() -> None:
    model, (pixels, position) = micro_mae(), crops(3)
    view = model.t1(pixels, position, patches=64, seed=0, view=0, partner=None)
    assert view.hiding is not None
    predicted = model.measure.decoder(model.online(view), view.hiding.hidden)
    wanted = patch_normalised(patchified(normalised(pixels), 4))
    terms = [
        (predicted[i, k] - wanted[i, n]).square().mean()
        for i in range(3)
        for k, n in enumerate(view.hiding.hidden[i].tolist())
    ]
    assert torch.allclose(model((pixels,), position).loss, torch.stack(terms).mean(), atol=1e-6)


def test_hashes_on_the_device_are_those_of_numpy() -> None:
    from mim_ray.draws import _mix

    words = np.arange(-5, 5) * 123456789012345
    on_device = _mixed(torch.from_numpy(words)).numpy().astype(np.uint64)
    assert (on_device == _mix(words.astype(np.uint64))).all()
    assert len(set(Purpose)) == len(Purpose)


def test_pictures_that_are_not_whole_patches_are_refused() -> None:
    with pytest.raises(Mistake, match="not whole patches"):
        resolved("mae", {"method.encoder.patch": 5, "encoder": "micro"}).method.build(SIZE)
    model, (pixels, position) = micro_mae(**{"method.t1.mask": "none"}), crops()
    with pytest.raises(Mistake, match="needs hidden patches"):
        model((pixels,), position)


def test_every_method_opens_with_what_it_is() -> None:
    for name, recipe in METHODS.items():
        assert recipe.__doc__, name
        assert recipe() == resolved(name, {})
