"""One grid over every method: builds, learns, survives text, is one graph; one of each family is compiled."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mim_ray.config import changed, flatten, resolve
from mim_ray.cost import cost
from mim_ray.encoders.vit import SHAPES, Shape
from mim_ray.errors import Mistake
from mim_ray.methods import METHODS, PROTOCOLS, resolved
from mim_ray.methods.sizes import WORDS
from mim_ray.run import Run
from mim_ray.siamese import Siamese

PICTURES = 8
SIZE = (32, 32)
CONVOLUTIONAL = {"simmim_r50", "a2mim_r50", "a2mim_r50_code", "mocov3_r50", "byol"}


def micro(name: str) -> Run:
    return resolved(name, {"encoder": "resnet-micro" if name in CONVOLUTIONAL else "micro", "batch": PICTURES})


def built(run: Run) -> Siamese:
    torch.manual_seed(0)
    return run.method.build(SIZE)


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks have a first and a middle one as six do, in a third of the time."""
    monkeypatch.setitem(SHAPES, "micro", Shape(64, 2, 2, 1))


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """Eight windows of real photographs."""
    from sklearn.datasets import load_sample_images

    pictures = [torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in load_sample_images().images]
    windows = [picture[:, row : row + 128 : 4, 100:228:4] for picture in pictures for row in (0, 90, 180, 270)]
    return torch.stack(windows)


def inputs(run: Run, pictures: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    crops = (pictures, pictures.flip(3))[: run.method.crops]
    return crops, torch.arange(PICTURES), torch.arange(PICTURES)


@pytest.mark.parametrize("name", METHODS)
def test_every_weight_gets_a_gradient_and_the_loss_falls(name: str, photographs: Tensor) -> None:
    run = micro(name)
    model = built(run)
    optimiser = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-3)
    losses, moved = [], set[str]()
    for _ in range(20):
        measured = model(*inputs(run, photographs))
        optimiser.zero_grad()
        measured.loss.backward()
        trained = {key: weight.grad for key, weight in model.named_parameters() if weight.requires_grad}
        assert all(gradient is not None and gradient.isfinite().all() for gradient in trained.values())
        moved |= {key for key, gradient in trained.items() if gradient is not None and gradient.any()}
        optimiser.step()
        model.follow(0.99)
        losses.append(measured.loss.item())
    assert moved == trained.keys()  # the first steps of a ResNet pass its branches by
    assert losses[-1] < losses[0]
    assert not any(part.requires_grad for part in measured.parts.values())
    if model.target is not None:
        assert all(weight.grad is None for weight in model.target.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_survives_being_written_and_read(name: str) -> None:
    for run in (METHODS[name](), micro(name)):
        assert resolve(METHODS[name](), flatten(run)) == run
        assert resolve(METHODS[name](), changed(METHODS[name](), run)) == run
    assert (METHODS[name].__doc__ or "").endswith(".")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_survives_being_written_and_read(name: str) -> None:
    run = PROTOCOLS[name]()
    assert resolve(run, flatten(run)) == run
    assert resolve(run, changed(run, run)) == run
    assert (PROTOCOLS[name].__doc__ or "").endswith(".")


@pytest.fixture
def one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler treats the others as it does this one."""
    monkeypatch.setitem(SHAPES, "micro", Shape(64, 1, 2, 1))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.usefixtures("one_block")
def test_a_step_is_one_graph(name: str, photographs: Tensor) -> None:
    check_compiled(micro(name), photographs, backend="eager")


@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex")
@pytest.mark.parametrize("name", ["rmae", "cmae_token_class", "a2mim_r50", "supervised"])
@pytest.mark.usefixtures("one_block")
def test_compiled_equals_eager(name: str, photographs: Tensor) -> None:
    check_compiled(micro(name), photographs, backend="inductor")


def check_compiled(run: Run, photographs: Tensor, backend: str) -> None:
    model = built(run)
    torch.compiler.reset()
    losses, gradients = [], []
    for one in (model, torch.compile(model, fullgraph=True, dynamic=False, backend=backend)):
        model.zero_grad()
        loss = one(*inputs(run, photographs)).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append([weight.grad.clone() for weight in model.parameters() if weight.grad is not None])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for eager, compiled in zip(*gradients, strict=True):
        assert torch.allclose(eager, compiled, atol=1e-3 * max(eager.abs().max().item(), 1e-3))


@pytest.mark.parametrize("name", ["mae", "rmae", "cmae_token_class", "a2mim_r50", "mocov3", "supervised"])
def test_bf16_stays_close(name: str, photographs: Tensor) -> None:
    run = micro(name)
    model = built(run)
    exact = model(*inputs(run, photographs)).loss.item()
    with torch.autocast("cpu", torch.bfloat16):
        measured = model(*inputs(run, photographs))
    assert measured.loss.dtype == torch.float32
    assert measured.loss.item() == pytest.approx(exact, rel=0.05)
    measured.loss.backward()


@pytest.mark.parametrize("word", WORDS)
def test_every_encoder_word_names_a_run(word: str) -> None:
    for name in ("mae", "a2mim", "cmae", "mocov3"):
        run = resolved(name, {"encoder": word})
        assert resolve(METHODS[name](), flatten(run)) == run


def test_an_unknown_encoder_is_refused_with_the_nearest() -> None:
    with pytest.raises(Mistake, match="did you mean 'vit-small'"):
        resolved("mae", {"encoder": "vit-smal"})


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("vit_base_patch16_224", "did you mean 'vit-base'"),
        ("vit_small_patch16_224.augreg_in21k", "did you mean 'vit-small'"),
        ("vit_large_patch14_clip_224", "did you mean 'vit-large'"),
        ("deit_tiny_patch16_224", "did you mean 'vit-tiny'"),
    ],
)
def test_a_vit_by_its_timm_name_is_told_our_name(word: str, meant: str) -> None:
    with pytest.raises(Mistake) as refusal:
        resolved("mae", {"encoder": word})
    assert str(refusal.value).startswith(f"encoder={word}: a ViT is chosen by its size: {meant}")


@pytest.mark.parametrize("name", METHODS)
def test_the_cost_is_what_torch_counts(name: str, photographs: Tensor) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    run = micro(name)
    model = built(run)
    with FlopCounterMode(display=False) as counter:
        model(*inputs(run, photographs)).loss.backward()
    expected = cost(run)
    assert expected.parameters == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert expected.flops == pytest.approx(counter.get_total_flops() / PICTURES, rel=0.03)


def test_the_cost_of_a_twin_is_that_of_gradients_through_both_sides(photographs: Tensor) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    twin = {"method.target": "twin", "method.measure.negatives": "all", "method.measure.projector.out": 512}
    run = resolved("cmae", {"encoder": "micro", "batch": PICTURES, **twin, "method.measure.predictor": "none"})
    with FlopCounterMode(display=False) as counter:
        built(run)(*inputs(run, photographs)).loss.backward()
    assert cost(run).flops == pytest.approx(counter.get_total_flops() / PICTURES, rel=0.03)


@pytest.mark.parametrize("name", ["mae", "rmae", "simmim", "a2mim_r50", "cmae", "cmae_byol", "mocov3"])
def test_the_activations_are_what_torch_keeps_for_the_backward_pass(name: str, photographs: Tensor) -> None:
    run = micro(name)
    model = built(run)
    loss = model(*inputs(run, photographs)).loss
    kept = {storage.data_ptr(): storage.nbytes() for storage in storages_behind(loss)}
    for weight in [*model.parameters(), *model.buffers()]:
        kept.pop(weight.untyped_storage().data_ptr(), None)
    assert cost(run).activation_bytes == pytest.approx(sum(kept.values()) / PICTURES, rel=0.15)


def storages_behind(loss: Tensor) -> Iterator[torch.UntypedStorage]:
    """Of everything that the graph of a loss holds on to."""
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for field in (field for field in dir(node) if field.startswith("_saved_")):
            value = getattr(node, field)
            held = value if isinstance(value, tuple) else (value,)
            yield from (part.untyped_storage() for part in held if isinstance(part, Tensor))
        waiting += [before for before, _ in node.next_functions]


@pytest.mark.parametrize("name", ["cmae", "cmae_byol", "mocov3"])
def test_the_target_branch_keeps_nothing_for_the_backward_pass(name: str, photographs: Tensor) -> None:
    run = micro(name)
    model = built(run)
    assert model.target is not None
    where, kept = ["outside"], Counter[str]()
    model.target.register_forward_pre_hook(lambda *_: where.append("inside"))
    model.target.register_forward_hook(lambda *_: where.append("outside"))

    def keep(tensor: Tensor) -> Tensor:
        kept[where[-1]] += 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(*inputs(run, photographs))
    assert "inside" in where
    assert kept.keys() == {"outside"}


class Sorts(TorchDispatchMode):
    """Counts them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in (torch.ops.aten.sort, torch.ops.aten.argsort)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "drawn"), [("mae", 1), ("rmae", 1), ("rmae_25", 2), ("cmae", 1), ("a2mim", 1)])
def test_what_is_hidden_is_sorted_once_for_each_draw(name: str, drawn: int, photographs: Tensor) -> None:
    """The complement is the same order from its other end."""
    run = micro(name)
    with Sorts() as sorts:
        built(run)(*inputs(run, photographs))
    assert sorts.count == drawn


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("simmim", {"method.t1.mask": "none"}),
        ("rmae", {"method.encoder.hidden": "replace", "method.measure.head": "linear"}),
        ("cmae", {"method.measure.predictor": "none"}),
        ("mae", {"method.target": "twin", "method.measure": "contrast", "method.t2.mask": "none"}),
    ],
)
def test_a_small_size_respects_what_was_chosen(name: str, changes: dict[str, object]) -> None:
    run = resolved(name, {"encoder": "micro"} | changes)
    flat = flatten(run)
    assert all(flat[path] == word for path, word in changes.items())
    assert built(run)
