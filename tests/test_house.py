"""The house: who may import whom, one door per vendor, a core that needs no engine, the public words."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mim_ray

ROOT = Path(mim_ray.__file__).parent

BASEMENT = {"errors", "config", "draws", "progress"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "draws": set(),
    "progress": set(),
    "phrases": set(),
    "config": {"errors", "phrases"},
    "views": set(),
    "blocks": {"views"},
    "world": {"errors"},
    "bench": {"progress"},
    "transforms": BASEMENT | {"views"},
    "encoders": BASEMENT | {"views", "blocks", "world"},
    "measures": BASEMENT | {"views", "blocks", "world"},
    "grammar": BASEMENT | {"transforms", "encoders", "measures"},
    "grammar_of_pictures": BASEMENT | {"encoders", "grammar", "measures", "transforms", "views"},
    "siamese": BASEMENT
    | {"grammar", "grammar_of_pictures", "views", "world", "transforms", "encoders", "measures"},
    "scores": set(),
    "memory": set(),
    "precision": set(),
    "run": BASEMENT | {"data", "encoders", "measures", "scores", "siamese", "transforms"},
    "methods": BASEMENT | {"transforms", "encoders", "measures", "siamese", "run"},
    "weights": BASEMENT | {"blocks", "transforms", "encoders", "measures", "siamese", "storage", "views"},
    "cost": {"blocks", "encoders", "measures", "run", "siamese", "transforms"},
    "step_bench": {"bench", "blocks", "cost", "methods", "precision", "siamese", "training", "views"},
    "data": BASEMENT | {"transforms", "bench"},
    "tracking": BASEMENT | {"fence", "scores"},
    "storage": {"errors"},
    "fence": {"errors", "storage"},
    "training": BASEMENT
    | {"cost", "data", "encoders", "evaluate", "fence", "measures", "memory", "methods", "model_card", "models"}
    | {"precision", "run", "scores", "siamese", "storage"}
    | {"revision", "tracking", "views", "weights", "world"},
    "board": set(),
    "charts": set(),
    "ray_group": set(),
    "ray_room": {"errors", "run"},
    "ray_token": {"errors"},
    "ray_train": {"board", "errors", "ray_group", "ray_room", "ray_token", "run", "storage", "training"},
    "promotion": {"errors", "scores", "tracking"},
    "search": BASEMENT
    | {
        "board",
        "charts",
        "cost",
        "evaluate",
        "judge",
        "launch",
        "memory",
        "methods",
        "phrases",
        "promotion",
        "ray_room",
    }
    | {"ray_train", "resume", "run", "scores", "spaces", "storage", "tracking", "training"},
    "search_cli": {"config", "errors", "options", "output", "search"},
    "resume": BASEMENT | {"phrases", "run", "storage", "tracking", "training"},
    "evaluate": BASEMENT
    | {"blocks", "data", "encoders", "measures", "run", "scores", "siamese", "transforms", "views", "world"},
    "subject": BASEMENT | {"encoders", "methods", "models", "run", "tracking", "training", "weights"},
    "judge": BASEMENT
    | {
        "data",
        "encoders",
        "launch",
        "measures",
        "methods",
        "resume",
        "run",
        "storage",
        "subject",
        "tracking",
        "training",
    }
    | {"weights"},
    "serving": {"models"},
    "embed": BASEMENT
    | {"data", "evaluate", "launch", "methods", "resume", "storage", "subject", "training", "transforms", "views"}
    | {"weights"},
    "model_card": {"config", "methods", "run"},
    "exports": BASEMENT | {"encoders", "model_card", "models", "siamese", "weights"},
    "models_cli": {
        "charts",
        "config",
        "errors",
        "exports",
        "model_card",
        "models",
        "options",
        "output",
        "promotion",
        "tracking",
    },
    "eval_cli": {"config", "embed", "errors", "judge", "options", "output"},
    "models": BASEMENT
    | {"encoders", "evaluate", "methods", "model_card", "run", "tracking", "transforms", "views", "weights"},
    "launch": {"resume"}
    | BASEMENT
    | {"data", "fence", "methods", "models", "phrases", "ray_train", "revision", "run", "storage", "tracking"}
    | {"training"},
    "spaces": set(),
    "doctor": {"data", "errors", "precision"},
    "turns": {"data", "ray_train", "run", "training", "views"},
    "train_bench": {"bench", "config", "data", "errors", "methods", "tracking", "training", "turns"},
    "search_bench": {"errors"},
    "benches": {"errors", "data", "search_bench", "step_bench", "train_bench"},
    "output": {"tracking"},
    "demo": {"data", "evaluate", "launch", "methods", "run", "siamese", "tracking", "transforms"},
    "processes": set(),
    "revision": set(),
    "fake_cluster": {"errors", "processes"},
    "submit": {"errors", "ray_token", "revision"},
    "options": {"config"},
    "cluster_cli": {"config", "errors", "fake_cluster", "judge", "methods", "options", "output", "resume"}
    | {"submit"},
    "data_cli": {"config", "data", "options", "output", "tracking"},
    "cli": BASEMENT
    | {
        "benches",
        "cluster_cli",
        "cost",
        "data",
        "data_cli",
        "demo",
        "doctor",
        "eval_cli",
        "launch",
        "methods",
        "models_cli",
        "run",
        "search_cli",
        "spaces",
        "training",
    }
    | {"options", "output", "tracking"},
    "__main__": {"cli"},
    "__init__": {"data", "errors", "launch", "methods", "models", "run", "siamese", "transforms", "weights"},
}
DOORS = {
    "ffcv": ("data/",),
    "numba": ("data/",),
    "llvmlite": ("data/",),
    "timm": ("encoders/", "training/optim.py", "step_bench.py"),
    "ray": (
        "ray_train.py",
        "ray_group.py",
        "ray_room.py",
        "ray_token.py",
        "search/",
        "submit.py",
        "fake_cluster.py",
    ),
    "optuna": ("search/",),
    "mlflow": ("tracking/",),
}
CORE = (
    "siamese",
    "methods",
    "weights.files",
    "cost",
    "run",
    "views",
    "blocks",
    "data.loader",
    "data.importer",
    "data.sources",
    "tracking.journal",
    "tracking.results",
    "cli",
    "doctor",
    "judge",
    "launch",
    "models",
    "training.worker",
)


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    room = room_of(path)
    assert room in MAY_IMPORT, f"{room}: say in MAY_IMPORT whom this room may import"
    ours = {name.split(".")[1] for name in imports_of(path) if name.startswith("mim_ray.")}
    assert ours - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_each_vendor_has_one_door(path: Path) -> None:
    place = str(path.relative_to(ROOT))
    for vendor in {name.split(".")[0] for name in imports_of(path)} & DOORS.keys():
        assert place.startswith(DOORS[vendor]), f"{place} imports {vendor}; its doors are {DOORS[vendor]}"


def test_no_room_is_empty_and_no_file_is_long() -> None:
    for path in sources():
        assert len(path.read_text().splitlines()) <= 300, f"{path.name}: split it"


def test_the_core_works_without_the_engines(tmp_path: Path) -> None:
    """Imports everything but the doors, and takes a step of MAE on plainly loaded pictures."""
    script = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"ray", "ffcv", "mlflow", "numba", "llvmlite"}}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import importlib, warnings
for name in {CORE!r}:
    importlib.import_module("mim_ray." + name)
from pathlib import Path
from mim_ray import Import, Loader, import_set, open_source, resolved
out = Path({str(tmp_path)!r}) / "shapes.beton"
import_set(open_source("sample:shapes:n=16"), out, Import(workers=1))
run = resolved("mae", {{"encoder": "micro", "method.encoder.patch": 4, "data.crop.size": (32, 32)}})
batch = next(Loader(out, batch=8, crop=run.data.crop, backend="torch").batches())
loss = run.method.build(run.data.crop.size)(batch.crops, batch.position).loss
loss.backward()
print("loss", float(loss))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("loss ")


def test_the_public_words_are_these() -> None:
    assert sorted(mim_ray.__all__) == sorted(mim_ray._HOME)
    for name in mim_ray.__all__:
        assert getattr(getattr(mim_ray, name), "__name__", "METHODS") == name
    with pytest.raises(AttributeError):
        mim_ray.nothing  # noqa: B018


def test_importing_the_package_loads_no_engine() -> None:
    script = "import sys, mim_ray; print([name for name in ('torch', 'ray', 'ffcv') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


def test_a_space_knows_tune_alone() -> None:
    for path in ROOT.parent.glob("tune_spaces/[a-z]*.py"):
        assert imports_of(path) <= {"ray.tune", "typing.Any"}, path


def test_the_spaces_and_the_cluster_import_nothing_of_ours() -> None:
    for path in [*ROOT.parent.glob("tune_spaces/*.py"), *ROOT.parent.glob("cluster/**/*.py")]:
        assert not [name for name in imports_of(path) if name.split(".")[0] == "mim_ray"], path
