import io
import json
import logging
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image

from mim_ray.data.source import Picture, Source
from mim_ray.data.sources import open_source
from mim_ray.errors import Failure, Mistake

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)
Colour = tuple[int, int, int]


def encoded(colour: Colour, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, kind)
    return buffer.getvalue()


def picture(path: Path, colour: Colour = RED) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(colour, "JPEG" if path.suffix.lower().startswith(".j") else "PNG"))


def colour(raw: Picture) -> Colour:
    """The colour of a picture of one colour, told from its brightest channel."""
    assert isinstance(raw, bytes)
    with Image.open(io.BytesIO(raw)) as image:
        pixel = np.asarray(image.convert("RGB"))[3, 3]
    return (RED, GREEN, BLUE)[int(pixel.argmax())]


def colours(source: Source) -> list[Colour]:
    """Through a pickle, as in another process."""
    copy: Source = pickle.loads(pickle.dumps(source))
    return [colour(copy.image(index)) for index in range(len(copy))]


def names(source: Source) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def refusal(kind: type[Exception], text: object, **options: str) -> str:
    with pytest.raises(kind) as refused:
        open_source(str(text), **options)
    message = str(refused.value)
    assert "\n" not in message
    return message


# Folders


def test_class_folders(tmp_path: Path) -> None:
    picture(tmp_path / "dogs/b.JPEG", GREEN)
    picture(tmp_path / "dogs/deep/er/a.png", BLUE)
    picture(tmp_path / "cats/1.jpg", RED)
    picture(tmp_path / "cats/.hidden.jpg")
    picture(tmp_path / ".cache/x.jpg")
    (tmp_path / "cats/notes.txt").write_text("not a picture")
    (tmp_path / "README.md").write_text("neither")
    source = open_source(str(tmp_path))
    assert source.origin == str(tmp_path)
    assert source.classes == ("cats", "dogs")
    assert source.fields == ("label",)
    assert names(source) == ["cats/1.jpg", "dogs/b.JPEG", "dogs/deep/er/a.png"]
    assert source.labels().tolist() == [[0], [1], [1]]
    assert source.labels().dtype == np.int64
    assert colours(source) == [RED, GREEN, BLUE]


def test_links_are_followed(tmp_path: Path) -> None:
    picture(tmp_path / "store/a.png", GREEN)
    (tmp_path / "set/cats").mkdir(parents=True)
    (tmp_path / "set/cats/linked.png").symlink_to(tmp_path / "store/a.png")
    (tmp_path / "set/dogs").symlink_to(tmp_path / "store")
    source = open_source(str(tmp_path / "set"))
    assert names(source) == ["cats/linked.png", "dogs/a.png"]
    assert colours(source) == [GREEN, GREEN]


def test_a_link_to_a_folder_it_lies_in_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "cats/a.png")
    picture(tmp_path / "dogs/b.png")
    link = tmp_path / "cats/again"
    for folder in (tmp_path / "cats", tmp_path):
        link.symlink_to(folder)
        expected = f"{link} is a link to {folder}, which it lies in: remove the link"
        assert refusal(Mistake, tmp_path) == expected
        link.unlink()
    link.symlink_to(tmp_path / "dogs")
    (tmp_path / "dogs/again").symlink_to(tmp_path / "cats")
    assert "again/again is a link to" in refusal(Mistake, tmp_path)


def test_a_link_to_itself_is_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    picture(tmp_path / "cats/a.png")
    (tmp_path / "cats/b.png").symlink_to("b.png")
    assert names(open_source(str(tmp_path))) == ["cats/a.png", "cats/b.png"]


def test_flat_folder_is_unlabelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "pictures/b.png", BLUE)
    picture(tmp_path / "pictures/a.jpg", GREEN)
    (tmp_path / "pictures/empty").mkdir()
    monkeypatch.chdir(tmp_path)
    source = open_source("pictures")
    monkeypatch.chdir("/")
    assert (source.origin, source.classes, source.fields) == ("pictures", (), ())
    assert source.labels().shape == (2, 0)
    assert names(source) == ["a.jpg", "b.png"]
    assert colours(source) == [GREEN, BLUE]


def test_folders_that_are_no_source(tmp_path: Path) -> None:
    picture(tmp_path / "a/x.png")
    (tmp_path / "cats").mkdir()
    expected = f"class folder 'cats' in {tmp_path} holds no image: add images or remove it"
    assert refusal(Mistake, tmp_path) == expected
    picture(tmp_path / "top.png")
    both = f"{tmp_path} holds images beside its folders (top.png) and inside (a/x.png): keep one"
    assert refusal(Mistake, tmp_path) == both
    assert refusal(Mistake, tmp_path / "cats").startswith(
        f"no image in {tmp_path}/cats: expected files ending in .jpg"
    )


def test_what_is_no_source_at_all(tmp_path: Path) -> None:
    picture(tmp_path / "pictures/x.png")
    (tmp_path / "set.zip").write_bytes(b"PK")
    forms = "(expected a folder of images, a .txt, .csv or .tsv list, .tar shards, hf:NAME or sample:NAME)"
    typo, packed, empty = tmp_path / "pictues", tmp_path / "set.zip", tmp_path / "nowhere/else"
    assert refusal(Mistake, typo) == f"cannot import from '{typo}': did you mean 'pictures'? {forms}"
    assert refusal(Mistake, packed) == f"cannot import from '{packed}' {forms}"
    assert refusal(Mistake, empty) == f"cannot import from '{empty}' {forms}"
    assert refusal(Mistake, "") == f"cannot import from '' {forms}"


# Lists


@pytest.mark.parametrize(
    ("file", "text", "paths", "classes", "labels"),
    [
        ("a.txt", "x.png\n\n# no\nsub/y.png\n", ["x.png", "sub/y.png"], (), []),
        ("a.txt", "my cat.png 1\ny.png 0\n", ["my cat.png", "y.png"], ("0", "1"), [1, 0]),
        ("a.txt", "my cat.png\nmy dog.png", ["my cat.png", "my dog.png"], (), []),
        ("a.txt", "x.png\tdog\ny.png\tcat\n", ["x.png", "y.png"], ("cat", "dog"), [1, 0]),
        ("a.csv", "path,label\nx.png,2\ny.png,0\n", ["x.png", "y.png"], ("0", "1", "2"), [2, 0]),
        ("a.csv", "Image,Label\r\nx.png, dog\r\ny.png,cat\r\n", ["x.png", "y.png"], ("cat", "dog"), [1, 0]),
        ("a.csv", '\ufeffimage\n"x,1.png"\n', ["x,1.png"], (), []),
        ("a.tsv", "path\tlabel\nx,1.png\t3\n", ["x,1.png"], ("0", "1", "2", "3"), [3]),
        ("a.csv", "x.png,10\ny.png,9\nz.png,big", ["x.png", "y.png", "z.png"], ("10", "9", "big"), [0, 1, 2]),
    ],
)
def test_list(
    tmp_path: Path, file: str, text: str, paths: list[str], classes: tuple[str, ...], labels: list[int]
) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8")
    source = open_source(str(tmp_path / file))
    assert names(source) == paths
    assert source.classes == classes
    assert source.fields == (("label",) if classes else ())
    assert source.labels().flatten().tolist() == labels
    assert len(source.labels()) == len(source) == len(paths)


@pytest.mark.parametrize(
    "head",
    [
        "filename,label", "image_path,class", "file_name,target", "filepath,label", "id,breed", "image,class",
        "Image Path,Label", "img,label", "image_id,label", "Files,y", "img_path,l", '"FileName","Label"', "name,k",
    ],
)  # fmt: skip
def test_a_head_is_no_sample_and_numbers_stay_numbers(tmp_path: Path, head: str) -> None:
    (tmp_path / "a.csv").write_text(f"{head}\nx.png,10\ny.png,9\n")
    source = open_source(str(tmp_path / "a.csv"))
    assert names(source) == ["x.png", "y.png"]
    assert source.classes == tuple(map(str, range(11)))
    assert source.labels().tolist() == [[10], [9]]


def test_heads_of_one_column_and_of_other_separators(tmp_path: Path) -> None:
    for file, text in (
        ("a.txt", "path label\nx.png 1\n"),
        ("b.tsv", "file\tlabel\nx.png\t1\n"),
        ("c.csv", "id\nx.png"),
    ):
        (tmp_path / file).write_text(text)
        assert names(open_source(str(tmp_path / file))) == ["x.png"]


def test_a_file_that_is_called_like_a_head_is_a_sample(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("image 1\nimage 2.png 0\nid 1\n")
    assert names(open_source(str(tmp_path / "a.txt"))) == ["image 2.png", "id"]
    (tmp_path / "image").touch()
    assert names(open_source(str(tmp_path / "a.txt"))) == ["image", "image 2.png", "id"]
    (tmp_path / "b.txt").write_text("image 2.png\nid\n")
    assert names(open_source(str(tmp_path / "b.txt"))) == ["image 2.png", "id"]


def test_long_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x.png,10000000\ny.png,9000000\n")
    assert open_source(str(tmp_path / "a.csv")).classes == ("9000000", "10000000")


def test_paths_start_at_the_list(tmp_path: Path) -> None:
    picture(tmp_path / "lists/sub/x.png", GREEN)
    picture(tmp_path / "elsewhere.png", BLUE)
    (tmp_path / "lists/all.csv").write_text(f"sub/x.png,1\n{tmp_path}/elsewhere.png,0\n../elsewhere.png,0\n")
    assert colours(open_source(str(tmp_path / "lists/all.csv"))) == [GREEN, BLUE, BLUE]


def test_lists_that_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("path,label\nx.png,1\n\ny.png\n")
    assert refusal(Mistake, file) == f"line 4 of {file} has no label but others have: label all of them or none"
    file.write_text("x.png,1,640\n")
    assert refusal(Mistake, file) == "too many columns in a.csv: expected path,label, got 'x.png,1,640'"
    file.write_text("# nothing\n\npath,label\n")
    assert refusal(Mistake, file) == f"{file} lists no image: write one path, or path,label, per line"


# Tar shards

Members = Mapping[str, bytes]


def write_tar(path: Path, members: Members, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def shard(path: Path, start: int, *drawn: Colour) -> Path:
    members: dict[str, bytes] = {}
    for key, each in enumerate(drawn, start):
        members |= {f"{key:04}.jpg": encoded(each, "JPEG"), f"{key:04}.cls": f"{key}\n".encode()}
    return write_tar(path, members)


def test_shards_however_they_are_named(tmp_path: Path) -> None:
    shard(tmp_path / "set-000.tar", 0, RED, GREEN)
    shard(tmp_path / "set-001.tar", 2, BLUE)
    wanted = ["set-000.tar/0000", "set-000.tar/0001", "set-001.tar/0002"]
    for text in (tmp_path, tmp_path / "set-*.tar", tmp_path / "set-{000..001}.tar", tmp_path / "set-{0..0}0?.tar"):
        source = open_source(str(text))
        assert names(source) == wanted
        assert source.classes == ("0", "1", "2")
        assert source.labels().tolist() == [[0], [1], [2]]
        assert colours(source) == [RED, GREEN, BLUE]
    assert names(open_source(str(tmp_path / "set-001.tar"))) == wanted[2:]


def test_groups_within_a_shard(tmp_path: Path) -> None:
    members = {
        "./train/a.b.png": encoded(RED),
        "./train/a.cls.txt": b"3",
        "./train/c.json": json.dumps({"label": 1, "caption": "c"}).encode(),
        "./train/c.JPEG": encoded(GREEN, "JPEG"),
        "./train/no-image.cls": b"7",
        "./train/._c.jpg": b"what a Mac adds",
        "./train/._c.cls": b"and again",
        "./train/d.webp": encoded(BLUE, "WEBP"),
        "./train/d.cls": b"0",
        "./train/d.json": b'{"label": 5, "caption": "the .cls has the say"}',
    }
    source = open_source(str(write_tar(tmp_path / "a.tar", members)))
    assert names(source) == ["a.tar/./train/a", "a.tar/./train/c", "a.tar/./train/d"]
    assert source.labels().tolist() == [[3], [1], [0]]
    assert colours(source) == [RED, GREEN, BLUE]


@pytest.mark.parametrize(
    ("extension", "notes", "classes", "labels"),
    [
        ("cls", (b"cat\n", b"bat"), ("bat", "cat"), [1, 0]),
        ("cls.txt", (b"2", b"0"), ("0", "1", "2"), [2, 0]),
        ("json", (b'{"label": "cat"}', b'{"label": "bat"}'), ("bat", "cat"), [1, 0]),
        ("json", (b'{"class": 1}', b'{"class": 0}'), ("0", "1"), [1, 0]),
        ("json", (b'{"label": null, "target": "cat"}', b'{"fine_label": "bat"}'), ("bat", "cat"), [1, 0]),
        ("json", (b"1", b"0"), ("0", "1"), [1, 0]),
    ],
)
def test_labels_of_a_shard(
    tmp_path: Path, extension: str, notes: tuple[bytes, bytes], classes: tuple[str, ...], labels: list[int]
) -> None:
    one, other = notes
    members = {"x.png": encoded(RED), f"x.{extension}": one, "y.png": encoded(BLUE), f"y.{extension}": other}
    source = open_source(str(write_tar(tmp_path / "a.tar", members)))
    assert source.classes == classes
    assert source.labels().flatten().tolist() == labels


def test_json_files_without_a_label_are_said_once(tmp_path: Path) -> None:
    members = {
        f"{i}.{kind}": content for i in range(3) for kind, content in (("png", encoded(RED)), ("json", b"{}"))
    }
    tar = write_tar(tmp_path / "a.tar", members)
    with pytest.warns(UserWarning, match="without labels") as said:
        assert open_source(str(tar)).classes == ()
    looked_for = "label, labels, fine_label, coarse_label, target, class, cls"
    assert [str(one.message) for one in said] == [
        f"{tar}: imported without labels: its .json files hold none of {looked_for}"
    ]


def test_two_pictures_of_one_key_are_refused(tmp_path: Path) -> None:
    members = {"s/0.left.png": encoded(RED), "s/0.right.png": encoded(BLUE), "s/0.cls": b"1"}
    tar = write_tar(tmp_path / "a.tar", members)
    expected = f"{tar}: two pictures have the key s/0, s/0.left.png and s/0.right.png: "
    assert refusal(Mistake, tar) == expected + "write a tar with one picture for each key"


def test_unlabelled_shard(tmp_path: Path) -> None:
    source = open_source(str(write_tar(tmp_path / "a.tar", {"x.png": encoded(GREEN), "y.png": encoded(BLUE)})))
    assert (source.classes, source.fields, source.labels().shape) == ((), (), (2, 0))
    assert colours(source) == [GREEN, BLUE]


def test_shards_that_are_refused(tmp_path: Path) -> None:
    packed = write_tar(tmp_path / "a.tar.gz", {"x.png": encoded(RED)}, "w:gz")
    expected = f"{packed} is compressed: random access needs an uncompressed tar"
    assert refusal(Mistake, packed) == refusal(Mistake, tmp_path) == expected
    some = write_tar(tmp_path / "some.tar", {"x.png": encoded(RED), "x.cls": b"1", "y.png": encoded(RED)})
    assert refusal(Mistake, some) == "some.tar/y has no label but others have: label all of them or none"
    none = write_tar(tmp_path / "none.tar", {"x.cls": b"1"})
    assert refusal(Mistake, none) == f"no image in {none}: expected members such as 0001.jpg and 0001.cls"
    torn = write_tar(tmp_path / "torn.tar", {"x.png": encoded(RED), "x.json": b'{"label": '})
    assert refusal(Failure, torn).startswith(f"cannot read {torn}: Expecting value")
    assert "did you mean 'some.tar'?" in refusal(Mistake, tmp_path / "sme.tar")
    counted = refusal(Failure, tmp_path / "gap-{00..01}.tar")
    assert counted.startswith(f"cannot read {tmp_path}/gap-00.tar: ")


@pytest.mark.parametrize("left", [1.0, 0.999, 0.5, 0.1, 0.0])
def test_torn_tar(tmp_path: Path, left: float) -> None:
    whole = shard(tmp_path / "a.tar", 0, RED, GREEN, BLUE)
    content = whole.read_bytes().rstrip(b"\0")
    members = content[: -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE]
    whole.write_bytes(members[: int(len(members) * left)])
    assert refusal(Failure, whole).startswith(f"cannot read {whole}: ")


# Hugging Face sets


def table(labels: Mapping[str, Any], **features: Any) -> Dataset:
    pictures = [{"bytes": encoded(each), "path": None} for each in (RED, GREEN, BLUE)]
    columns = {"text": ["a", "b", "c"], "picture": pictures, **labels}
    return Dataset.from_dict(columns, Features({"text": Value("string"), "picture": datasets.Image(), **features}))


def test_saved_dataset(tmp_path: Path) -> None:
    species = ClassLabel(names=["cat", "dog"])
    table({"label": [5, 6, 7], "species": [1, 0, 1]}, label=Value("int32"), species=species).save_to_disk(
        tmp_path / "set"
    )
    source = open_source(str(tmp_path / "set"))
    assert (source.classes, source.fields) == (("cat", "dog"), ("label",))
    assert source.labels().tolist() == [[1], [0], [1]]
    assert source.name(1) == f"row 1 of {tmp_path}/set"
    assert colours(source) == [RED, GREEN, BLUE]
    assert len(pickle.dumps(source)) < 10_000


def test_saved_splits(tmp_path: Path) -> None:
    whole = table({"fine_label": [2, 0, 1]}, fine_label=Value("int64"))
    DatasetDict(train=whole, validation=whole.select([2])).save_to_disk(tmp_path)
    train, validation = open_source(str(tmp_path)), open_source(str(tmp_path), split="validation")
    assert train.classes == ("0", "1", "2")
    assert train.labels().tolist() == [[2], [0], [1]]
    assert colours(validation) == [BLUE]
    expected = f"no split 'valid' in {tmp_path}: did you mean 'validation'?"
    assert refusal(Mistake, tmp_path, split="valid") == expected


def test_a_column_of_words_is_one_of_classes(tmp_path: Path) -> None:
    table({"label": ["dog", "cat", "dog"]}, label=Value("string")).save_to_disk(tmp_path / "set")
    source = open_source(str(tmp_path / "set"))
    assert source.classes == ("cat", "dog")
    assert source.labels().tolist() == [[1], [0], [1]]
    table({"cls": ["a", None, "b"]}, cls=Value("large_string")).save_to_disk(tmp_path / "holes")
    assert refusal(Mistake, tmp_path / "holes").startswith(f"row 1 of {tmp_path}/holes has no label")


def test_columns_of_a_table(tmp_path: Path) -> None:
    table({}).save_to_disk(tmp_path / "unlabelled")
    unlabelled = open_source(str(tmp_path / "unlabelled"))
    assert (unlabelled.classes, unlabelled.fields, unlabelled.labels().shape) == ((), (), (3, 0))
    hidden = ClassLabel(names=["cat"])
    table({"label": [-1, -1, -1]}, label=hidden).save_to_disk(tmp_path / "hidden")
    assert open_source(str(tmp_path / "hidden")).classes == ()
    table({"label": [0, None, 0]}, label=hidden).save_to_disk(tmp_path / "holes")
    holes = refusal(Mistake, tmp_path / "holes")
    assert holes.startswith(f"row 1 of {tmp_path}/holes has no label")
    Dataset.from_dict({"text": ["a"], "label": [1]}).save_to_disk(tmp_path / "text")
    expected = f"no image column in {tmp_path}/text: its columns are text, label"
    assert refusal(Mistake, tmp_path / "text") == expected


def test_pictures_that_are_paths_or_absent(tmp_path: Path) -> None:
    picture(tmp_path / "x.png", GREEN)
    cells = [{"bytes": None, "path": str(tmp_path / "x.png")}, None]
    Dataset.from_dict({"image": cells}, Features({"image": datasets.Image()})).save_to_disk(tmp_path / "set")
    source = open_source(str(tmp_path / "set"))
    assert colour(source.image(0)) == GREEN
    assert source.image(1) == b""


def test_saved_format_does_not_matter(tmp_path: Path) -> None:
    table({"label": [0, 1, 0]}, label=Value("int64")).with_format("numpy").save_to_disk(tmp_path)
    assert open_source(str(tmp_path)).labels().tolist() == [[0], [1], [0]]
    assert colours(open_source(str(tmp_path))) == [RED, GREEN, BLUE]


def test_damaged_dataset(tmp_path: Path) -> None:
    table({}).save_to_disk(tmp_path / "set")
    next((tmp_path / "set").glob("*.arrow")).write_bytes(b"torn")
    assert refusal(Failure, tmp_path / "set").startswith(f"cannot load {tmp_path}/set: ")


def test_sets_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [table({}).select([row]) for row in range(3)]
    sets = {("a",): rows[0], ("a", "c"): rows[1], ("o/a",): rows[2], ("o/a", "c"): rows[1]}

    def load(*name: str, split: str) -> Dataset:
        if name not in sets:
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset {name} doesn't exist.\nLook again.")
        if split != "train":
            raise ValueError(f"Unknown split \"{split}\". Should be one of ['train'].")
        return sets[name]

    monkeypatch.setattr(datasets, "load_dataset", load)
    wanted = {"hf:a": RED, "hf:a/c": GREEN, "hf:o/a": BLUE, "hf:o/a/c": GREEN}
    assert {text: colours(open_source(text))[0] for text in wanted} == wanted
    assert open_source("hf:o/a").origin == "hf:o/a"
    assert refusal(Failure, "hf:o/b") == "cannot load hf:o/b: Dataset ('o', 'b') doesn't exist."
    expected = "cannot load hf:a: Unknown split \"tain\". Should be one of ['train']."
    assert refusal(Mistake, "hf:a", split="tain") == expected


def test_unreachable_hub(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("huggingface_hub.utils")

    def unreachable(*_: str, **__: str) -> None:
        log.warning("Retrying in 1s [Retry 1/5].")
        raise ConnectionError("Couldn't reach 'a' on the Hub\n(a long story)")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert refusal(Failure, "hf:a") == "cannot load hf:a: Couldn't reach 'a' on the Hub"
    log.warning("heard again")
    assert caplog.messages == ["heard again"]


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "datasets is not installed: pip install 'mim_ray[sources]'" in refusal(Failure, "hf:a")


# The whole


def test_pickle_of_many_paths_is_small(tmp_path: Path) -> None:
    lines = [f"n{label:08}/image_{sample:05}.jpg,{label}" for label in range(100) for sample in range(1000)]
    (tmp_path / "all.csv").write_text("\n".join(lines))
    source = open_source(str(tmp_path / "all.csv"))
    assert len(source) == 100_000
    assert len(pickle.dumps(source)) < 5_000_000


def test_import_is_light() -> None:
    heavy = "{'datasets', 'sklearn', 'skimage', 'torch', 'numba', 'ffcv', 'pandas'}"
    code = f"import sys, mim_ray.data.sources; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_split_is_refused_where_there_is_none(tmp_path: Path) -> None:
    picture(tmp_path / "flat/a.png")
    picture(tmp_path / "classes/cats/a.png")
    (tmp_path / "tars").mkdir()
    shard(tmp_path / "tars/a.tar", 0, RED)
    (tmp_path / "all.csv").write_text("flat/a.png\n")
    table({}).save_to_disk(tmp_path / "saved")
    for name in ("flat", "classes", "tars", "tars/a.tar", "all.csv", "saved"):
        text = tmp_path / name
        assert refusal(Mistake, text, split="val") == f"split=val: {text} has no splits: leave split= out"
        assert len(open_source(str(text))) in (1, 3)


def test_a_folder_of_parts_is_opened_at_its_split(tmp_path: Path) -> None:
    for part, classes in (("train", ("cat", "dog")), ("val", ("cat", "dog", "eel"))):
        for name in classes:
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / part / name / "a.png")
    assert open_source(str(tmp_path)).classes == ("cat", "dog")
    assert open_source(str(tmp_path), split="val").classes == ("cat", "dog", "eel")
    with pytest.raises(Mistake, match=r"no split 'vall' in .*did you mean 'val'"):
        open_source(str(tmp_path), split="vall")
