"""Spaces: what may be written in them, and that everything that they draw is a run."""

from collections.abc import Mapping
from pathlib import Path

import optuna
import pytest

from mim_ray.errors import Mistake
from mim_ray.methods import resolved
from mim_ray.search.points import check, corners, every, grid
from mim_ray.search.space import Space, load, of_source, run_of
from mim_ray.spaces import space_files

DRAWS = 40


def space_of(domains: str, method: str = "mae", more: str = "", fixed: Mapping[str, str] | None = None) -> Space:
    source = f"from ray import tune\nMETHOD = {method!r}\nSPACE = {{{domains}}}\n{more}"
    return of_source("own", source, fixed or {})


def drawn(space: Space) -> list[dict[str, object]]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [study.ask(space.domains).params for _ in range(DRAWS)]


@pytest.mark.parametrize("encoder", [None, "micro", "resnet-micro"])
@pytest.mark.parametrize("name", space_files())
def test_every_space_is_runs_at_every_corner(name: str, encoder: str | None) -> None:
    fixed = {} if encoder is None else {"encoder": encoder}
    space = load(name, fixed)
    check(space, fixed)
    for draw in drawn(space)[:5]:
        run_of(space, space.words(draw), fixed)
    assert resolved(space.method, fixed)


@pytest.mark.parametrize("name", ["mask_ratio", "learning_rate"])
@pytest.mark.parametrize("method", ["simmim", "a2mim_r50", "rmae_25", "cmae"])
def test_a_space_for_any_method_is_asked_of_any_method(name: str, method: str) -> None:
    space = load(name, {"method": method})
    check(space, {"method": method})
    assert space.sentence({})[0] == method


def test_layers_are_those_of_the_encoder() -> None:
    layers = {
        encoder: load("a2mim_token_layer", {"encoder": encoder}).domains["method.encoder.at"]
        for encoder in ("micro", "resnet-micro")
    }
    assert layers["micro"] != layers["resnet-micro"]


def test_a_file_anywhere_is_a_space(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text('from ray import tune\nMETHOD = "mae"\nSPACE = {"batch": tune.choice([32, 64])}\n')
    space = load(str(path), {})
    assert (space.name, space.goal, [*corners(space)]) == (
        "mine",
        "eval/knn_top1",
        [{"batch": "32"}, {"batch": "64"}],
    )
    assert space.source == path.read_text()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("mask_ration", "no space 'mask_ration': did you mean 'mask_ratio'?, or a file that ends in .py"),
        ("nowhere/mask_ration.py", "No such file or directory: did you mean 'mask_ratio'?"),
    ],
)
def test_a_space_that_is_not_there_names_the_nearest(where: str, said: str) -> None:
    with pytest.raises(Mistake) as refusal:
        load(where, {})
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("SPACE = {", "space own, line 1: SyntaxError"),
        ("1 / 0", "space own: ZeroDivisionError: division by zero"),
        ("SPACE = {}", "space own: expected METHOD = a method's name"),
        ("METHOD = 'mae'\nGOAL = 3", "GOAL = a metric's, both as text"),
        ("METHOD = 'mea'", "space own: no method 'mea': did you mean 'mae'?"),
        ("METHOD = 'mae'", "space own: expected SPACE = {path: domain, …}, or space(run)"),
        ("METHOD = 'mae'\nSPACE = {}", "expected SPACE = {path: domain, …}"),
        ("METHOD = 'mae'\ndef space(run): return run.nowhere", "space(run) raised AttributeError: "),
        ("METHOD = 'mae'\ndef space(run): return None", "or space(run) that returns it"),
    ],
)
def test_a_file_that_is_no_space_is_refused_in_a_line(source: str, said: str) -> None:
    with pytest.raises(Mistake) as refusal:
        of_source("own", source, {})
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_function_is_told_what_is_fixed() -> None:
    source = "from ray import tune\nMETHOD = 'mae'\ndef space(run): return {'batch': tune.choice([run.epochs])}"
    assert [*corners(of_source("own", source, {"epochs": "7", "method": "simmim"}))] == [{"batch": "7"}]


def test_a_path_exists_only_where_another_has_a_value() -> None:
    space = space_of(
        "'method.measure.loss': tune.choice(['infonce', 'byol']), "
        "'method.measure.temperature': tune.uniform(0.1, 0.2)",
        more="ONLY = {'method.measure.temperature': ('method.measure.loss', ('infonce',))}",
    )
    draw = {"method.measure.loss": "infonce", "method.measure.temperature": 0.15}
    assert space.words(draw)["method.measure.temperature"] == "0.15"
    assert space.words(draw | {"method.measure.loss": "byol"}) == {"method.measure.loss": "byol"}


def test_bounds_may_depend_on_what_another_path_has() -> None:
    depth = "method.encoder.depth"
    space = space_of(
        "'encoder': tune.choice(['micro', 'vit-tiny']), "
        f"'{depth}': {{('encoder', 'micro'): tune.randint(2, 5), ('encoder', 'vit-tiny'): tune.randint(6, 13)}}"
    )
    small, large = (f"{depth} where encoder={word}" for word in ("micro", "vit-tiny"))
    draw = {"encoder": "micro", small: 3, large: 12}
    assert space.words(draw) == {"encoder": "micro", depth: "3"}
    assert space.words(draw | {"encoder": "vit-tiny"}) == {"encoder": "vit-tiny", depth: "12"}
    check(space, {})
    assert len(every(space)) == 3 + 7


def test_a_case_that_is_never_drawn_is_refused() -> None:
    with pytest.raises(Mistake, match=r"encoder=vit-tin is never drawn: did you mean 'vit-tiny'\?"):
        space_of(
            "'encoder': tune.choice(['vit-tiny']), "
            "'method.encoder.depth': {('encoder', 'vit-tin'): tune.randint(2, 5)}"
        )


def test_a_whole_number_within_a_range_that_the_method_refuses_is_found() -> None:
    space = space_of("'method.measure.head.width': tune.randint(64, 129)")
    with pytest.raises(Mistake, match=r"at method\.measure\.head\.width="):
        check(space, {})


def test_what_hangs_on_a_path_that_is_not_there_is_not_there() -> None:
    space = space_of(
        "'optim.clip': tune.choice([1, 2]), 'batch': tune.choice([8, 16]), 'epochs': tune.choice([3, 4])",
        more="ONLY = {'batch': ('optim.clip', (1,)), 'epochs': ('batch', (16,))}",
    )
    assert space.words({"optim.clip": "2", "batch": "16", "epochs": "3"}) == {"optim.clip": "2"}


@pytest.mark.parametrize(
    ("clip", "batch", "epochs", "there"),
    [
        ("1", "16", "3", ["optim.clip", "batch", "epochs", "optim.blr", "optim.per"]),
        ("1", "16", "4", ["optim.clip", "batch", "epochs"]),
        ("1", "8", "3", ["optim.clip", "batch"]),
        ("2", "16", "3", ["optim.clip"]),
    ],
)
def test_rules_hang_on_one_another(clip: str, batch: str, epochs: str, there: list[str]) -> None:
    """However they are ordered, and of joined paths too."""
    space = space_of(
        "'optim.clip': tune.choice([1, 2]), 'batch': tune.choice([8, 16]), 'epochs': tune.choice([3, 4]), "
        "'optim.blr , optim.per': tune.choice([5])",
        more="ONLY = {'optim.blr,  optim.per': ('epochs', [3]), 'epochs': ('batch', (16,)), "
        "'batch': ('optim.clip', (1,))}",
    )
    draw = {"optim.clip": clip, "batch": batch, "epochs": epochs, "optim.blr,optim.per": "5"}
    assert [*space.words(draw)] == there
    assert len(grid(space, 1)) == 4


@pytest.mark.parametrize(
    ("only", "said"),
    [
        ("{'batsh': ('seed', (1,))}", "ONLY speaks of 'batsh': did you mean 'batch'?"),
        ("{'batch': ('epocs', (1,))}", "ONLY speaks of 'epocs': did you mean 'epochs'?"),
        ("{'batch': 'epochs'}", "expected ONLY = {path: (other path, (value, …)), …}"),
        ("['batch']", "expected ONLY = "),
        ("{'batch': ('epochs', 1)}", "expected ONLY = "),
        ("{'batch': ('epochs', '12')}", "expected ONLY = "),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(only: str, said: str) -> None:
    with pytest.raises(Mistake) as refusal:
        space_of("'batch': tune.choice([8]), 'epochs': tune.choice([1, 12])", more=f"ONLY = {only}")
    assert said in str(refusal.value)


def test_joined_paths_have_one_value_together() -> None:
    space = space_of("'method.t1.mask.ratio , method.t2.mask.ratio': tune.uniform(0.2, 0.8)", "rmae_25")
    check(space, {})
    for draw in drawn(space):
        first, second = space.words(draw).values()
        assert first == second
    assert space.words(draw).keys() == {"method.t1.mask.ratio", "method.t2.mask.ratio"}


def test_the_method_is_one_of_the_choices() -> None:
    space = space_of("'method': tune.choice(['simmim', 'a2mim'])")
    assert space.sentence({"method": "simmim", "batch": "8"}) == ("simmim", {"batch": "8"})
    assert run_of(space, {"method": "a2mim"}, {}) == resolved("a2mim", {})
    with pytest.raises(Mistake, match=r"space own at method=simmin: no method 'simmin': did you mean 'simmim'\?"):
        check(space_of("'method': tune.choice(['mae', 'simmin'])"), {})


def test_a_wrong_path_names_the_space_the_draw_and_the_nearest_path() -> None:
    with pytest.raises(
        Mistake, match=r"space own at optm.blr=0.1: no field 'optm.blr': did you mean 'optim.blr'\?"
    ):
        check(space_of("'optm.blr': tune.uniform(0.1, 0.2)"), {})


@pytest.mark.parametrize(
    ("domain", "said"),
    [
        ("tune.choice([])", "batch is empty: expected at least one value"),
        ("tune.grid_search([])", "batch is empty"),
        ("tune.uniform(0.5, 0.2)", "batch is empty: 0.5 to 0.2"),
        ("tune.uniform(0.5, 0.5)", "batch is empty"),
        ("tune.randint(3, 3)", "batch is empty: 3 to 3"),
        ("tune.qrandint(5, 9, 20)", "batch is empty"),
        ("32", "batch=32: expected one of ray.tune's, as tune.choice"),
        ("[8, 16]", "expected one of ray.tune's"),
        ("{'grid_search': 3}", "batch"),
        ("tune.sample_from(lambda: 3)", "only tune's choice, uniform, loguniform and randint can be searched"),
        ("tune.randn(0, 1)", "only tune's choice, uniform, loguniform and randint can be searched"),
        ("tune.qrandn(0, 1, 0.5)", "only tune's choice, uniform, loguniform and randint can be searched"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_words(domain: str, said: str) -> None:
    with pytest.raises(Mistake) as refusal:
        space_of(f"'batch': {domain}")
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "path",
    [
        "name", "storage", "seed", "steps", "workers", "cpus_per_worker", "gpus_per_worker", "resources", "start",
        "eval.pool", "tracking.uri", "checkpoint.keep", "data.train", "data.val", "data.stage",
    ],
)  # fmt: skip
def test_what_all_trials_share_is_not_searched(path: str) -> None:
    for joined in (path, f"batch, {path}", f"{path},batch"):
        with pytest.raises(
            Mistake, match=f"^space own: {path}: is the same for every trial of a search: leave it"
        ):
            space_of(f"{joined!r}: tune.choice([1, 2])")


@pytest.mark.parametrize("domains", ["'batch, batch': {}", "'epochs, batch': {0}, 'batch': {0}"])
def test_a_path_has_one_domain(domains: str) -> None:
    with pytest.raises(Mistake, match="space own: batch is there twice: expected one domain"):
        space_of(domains.format("tune.choice([8])"))


@pytest.mark.parametrize("path", ["batch", "method"])
def test_what_is_searched_cannot_be_fixed_beside_it(path: str) -> None:
    with pytest.raises(Mistake, match=f"^{path}=.*: is what own searches: leave it out"):
        space_of("'optim.clip, batch': tune.choice([8]), 'method': tune.choice(['mae'])", fixed={path: "mae"})


def test_too_many_corners_are_refused_before_any_is_tried() -> None:
    many = ", ".join(f"'p{number}': tune.choice(range(20))" for number in range(3))
    with pytest.raises(Mistake, match="space own: has 8000 corners: expected at most 5000"):
        check(space_of(many), {})


def test_a_setting_that_takes_whole_numbers_is_not_searched_between_them() -> None:
    """Both ends of the range are whole."""
    with pytest.raises(Mistake, match=r"method\.measure\.head\.depth"):
        check(space_of("'method.measure.head.depth': tune.uniform(1, 8)"), {})


def test_a_batch_that_the_workers_of_a_trial_cannot_share_is_refused() -> None:
    space = space_of("'batch': tune.choice([1, 8])")
    with pytest.raises(Mistake, match=r"^space own at batch=1: batch=1: leaves some of 2 workers without"):
        check(space, {"workers": "2"})
    check(space, {"workers": "1"})


def test_a_grid_has_every_choice_and_points_of_every_range() -> None:
    space = space_of("'batch': tune.grid_search([8, 16]), 'optim.blr': tune.loguniform(1e-4, 1e-2)")
    found = grid(space, 3)
    assert [draw["batch"] for draw in found] == ["8"] * 3 + ["16"] * 3
    assert [draw["optim.blr"] for draw in found[:3]] == pytest.approx([1e-4, 1e-3, 1e-2])
    assert [draw["optim.blr"] for draw in grid(space, 1)] == pytest.approx([1e-3] * 2)
    whole = space_of("'batch': tune.randint(8, 11), 'schedule.warmup_epochs': tune.qrandint(0, 10, 5)")
    assert len(grid(whole, 9)) == 9
    assert {draw["schedule.warmup_epochs"] for draw in grid(whole, 9)} == {0, 5, 10}


@pytest.mark.parametrize("ends", [(0.3, 0.9), (0.1, 0.7), (0.0, 0.3), (1e-5, 0.37)])
@pytest.mark.parametrize("kind", ["uniform", "loguniform"])
def test_points_of_a_grid_are_within_the_range(kind: str, ends: tuple[float, float]) -> None:
    low, high = ends if kind == "uniform" else (max(ends[0], 1e-3), ends[1])
    space = space_of(f"'optim.blr': tune.{kind}({low}, {high})")
    for points in range(1, 12):
        for draw in grid(space, points):
            value = draw["optim.blr"]
            assert isinstance(value, float)
            assert low <= value <= high


def test_a_grid_tries_nothing_twice() -> None:
    space = space_of(
        "'optim.clip': tune.choice([1, 2]), 'batch': tune.choice([8, 16, 32])",
        more="ONLY = {'batch': ('optim.clip', (1,))}",
    )
    tried = [tuple(space.words(draw).items()) for draw in grid(space, 3)]
    assert len(tried) == len(set(tried)) == 4
    narrow = space_of("'optim.weight_decay': tune.uniform(0.05, 0.050001), 'batch': tune.lograndint(1, 4)")
    assert [narrow.words(draw)["batch"] for draw in grid(narrow, 5)] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("domain", "values"),
    [
        ("tune.randint(2, 5)", {2, 3, 4}),
        ("tune.lograndint(2, 5)", {2, 3, 4}),
        ("tune.qrandint(8, 32, 8)", {8, 16, 24, 32}),
        ("tune.qrandint(5, 34, 10)", {10, 20, 30}),
        ("tune.qrandint(2, 5, 1)", {2, 3, 4}),
        ("tune.choice([8, 8, 16])", {8, 16}),
    ],
)
def test_whole_numbers_are_those_that_tune_draws(domain: str, values: set[int]) -> None:
    space = space_of(f"'batch': {domain}")
    words = [space.words(draw) for draw in drawn(space)]
    assert {run_of(space, one, {}).batch for one in words} == values
    assert {int(space.words(draw)["batch"]) for draw in corners(space)} <= values


@pytest.mark.parametrize("domain", ["tune.qlograndint(8, 64, 8)", "tune.qloguniform(8, 64, 8)"])
def test_steps_on_a_logarithmic_scale_are_refused(domain: str) -> None:
    with pytest.raises(Mistake, match=r"batch: steps and logarithms do not go together: expected tune\.choice"):
        space_of(f"'batch': {domain}")


@pytest.mark.parametrize(
    ("domain", "low", "high"),
    [
        ("tune.uniform(0.2, 0.3)", 0.2, 0.3),
        ("tune.loguniform(1e-5, 1e-2)", 1e-5, 1e-2),
        ("tune.uniform(0.9, 0.99999)", 0.9, 0.99999),
        ("tune.uniform(0.00123456, 0.0012349)", 0.00123456, 0.0012349),
        ("tune.uniform(10, 123456.0)", 10, 123456.0),
    ],
)
def test_what_is_typed_again_is_within_the_bounds(domain: str, low: float, high: float) -> None:
    space = space_of(f"'optim.blr': {domain}")
    for draw in [*drawn(space), *corners(space)]:
        words = space.words(draw)
        value = run_of(space, words, {}).optim.blr
        assert low <= value <= high
        assert value == float(words["optim.blr"])
        assert value == pytest.approx(draw["optim.blr"], rel=1e-3)


@pytest.mark.parametrize(("low", "high", "step"), [(0.1, 0.9, 0.1), (0.0005, 0.2, 0.0005), (10.0, 30000.0, 0.5)])
def test_a_quantised_range_is_typed_as_whole_steps(low: float, high: float, step: float) -> None:
    space = space_of(f"'optim.blr': tune.quniform({low}, {high}, {step})")
    for draw in [*drawn(space), *corners(space), *grid(space, 5)]:
        value = float(space.words(draw)["optim.blr"])
        assert value == pytest.approx(draw["optim.blr"], abs=step / 10)
        assert low <= value <= high
        assert value / step == pytest.approx(round(value / step), abs=1e-6)
