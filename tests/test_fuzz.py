"""Hostile and broken input: any file or word gives a result or one clear error, and no code of it runs.

Hypothesis draws few examples, so that the suite stays short; MSINET_FUZZ multiplies their number (see conftest).
"""

import contextlib
import io
import json
import os
import pickle
import random
import shutil
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ablations.__main__ import main as ablations
from ablations.engine.experiment import Experiment
from ablations.engine.store import Store
from bench.__main__ import main as bench
from msinet.cli import run_command as msinet
from msinet.data import load_dataset
from msinet.data.decoding import decode
from msinet.data.rendered import read_world
from msinet.errors import UserError, WeightsError
from msinet.io import file_errors
from msinet.models import build_model, load_weights, save_weights
from msinet.models.genotype import check_genotype
from msinet.search import read_genotype
from msinet.terminal import quietly
from msinet.training.checkpoint import load_checkpoint, save_checkpoint
from msinet.training.recipe import Recipe, Schedule, override
from msinet.training.recipes import parse_settings, resolve
from reports.__main__ import main as reports

TIMES = int(os.environ.get("MSINET_FUZZ", "1"))
few = settings(
    max_examples=40 * TIMES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
#: Valid JSON with other contents than any file of the project, including deep nesting and large numbers.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
DEEP = "[" * 200_000
HUGE = '{"fingerprint": "x", "seed": 1e999, "genotype": 1e999}'


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Damage to the bytes of a file, by a disk, a network or an editor."""
    kind = draw(st.sampled_from(["cut", "flip", "zeros", "insert", "repeat", "swap", "noise"]))
    seed = draw(st.integers(0, 2**32))

    def damage(good: bytes) -> bytes:
        chance = random.Random(seed)
        at, length = chance.randrange(len(good)), chance.randrange(1, 1 + min(len(good), 200))
        bad = bytearray(good)
        if kind == "cut":
            del bad[at:]
        elif kind == "flip":
            for _ in range(chance.choice([1, 1, 5, 50])):
                bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        elif kind == "zeros":
            bad[at : at + length] = bytes(len(bad[at : at + length]))
        elif kind == "insert":
            bad[at:at] = chance.randbytes(length)
        elif kind == "repeat":
            bad[at:at] = bad[at : at + length]
        elif kind == "swap":
            bad[:at], bad[at:] = bad[at:], bad[:at]
        else:
            bad[at : at + length] = chance.randbytes(len(bad[at : at + length]))
        return bytes(bad)

    return damage


# Data sets: lists, names, factors


@pytest.fixture(scope="module")
def own_list(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A list of the user whose content is restored after each example."""
    folder = tmp_path_factory.mktemp("own")
    image = next(data_root.rglob("*.jpg")).read_bytes()
    rows = ["path,identity,camera,split"]
    for i in range(6):
        (folder / f"{i}.jpg").write_bytes(image)
        rows.append(f"{i}.jpg,{'ab'[i % 2]},{i % 3 + 1},{('train', 'query', 'gallery')[i // 2]}")
    (folder / "mine.csv").write_text("\n".join(rows) + "\n")
    return folder / "mine.csv"


def own_list_loads_or_refuses(path: Path) -> None:
    try:
        dataset = load_dataset("mine", path, needs=())
        assert all(image.path.is_file() for image in (*dataset.train, *dataset.test))
        assert len(dataset.fingerprint) == 12
    except UserError as error:
        assert "mine" in str(error)


@few
@given(damages())
def test_damaged_lists_of_the_user(own_list: Path, damage: Callable[[bytes], bytes]) -> None:
    with replaced(own_list, damage(own_list.read_bytes())):
        own_list_loads_or_refuses(own_list)


@few
@given(st.lists(st.text(max_size=12), min_size=1, max_size=5), st.sampled_from([",", ";", "\t"]))
@example(['"'], ",")
@example(["\x00", "a", "1", "train"], ",")
@example(["~nobody/x", "a", "1", "train"], ",")
@example(["a" * 5000, "a", "1", "train"], ",")
@example(["..", "a", "1", "train"], ",")
@example(["0.jpg", "9" * 5000, "9" * 5000, "train"], ",")
def test_strange_lines_in_lists_of_the_user(own_list: Path, values: list[str], separator: str) -> None:
    line = separator.join(values).encode("utf-8", "surrogatepass")
    with replaced(own_list, own_list.read_bytes() + line + b"\n"):
        own_list_loads_or_refuses(own_list)


LISTS = {
    "msmt17": ("MSMT17_V1", ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")),
    "veri776": ("VeRi", ("name_train.txt", "name_query.txt", "name_test.txt")),
    "vehicleid": ("VehicleID", ("train_test_split/train_list.txt", "train_test_split/test_list_2400.txt")),
}


@pytest.fixture(scope="module")
def sets(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Own copies of the data sets, whose lists are restored after each example."""
    root = tmp_path_factory.mktemp("fuzz") / "data"
    shutil.copytree(data_root, root)
    (root / "secret.jpg").write_bytes((next(root.rglob("*.jpg"))).read_bytes())
    return root


@contextlib.contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    good = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(good)


def loads_or_refuses(name: str, root: Path) -> None:
    """Every loaded image lies in the folder of its data set; otherwise one error names the location."""
    try:
        dataset = load_dataset(name, root)
        assert dataset.num_classes > 0
        assert len(dataset.fingerprint) == 12
        for image in (*dataset.train, *dataset.test):
            assert image.path.resolve().is_relative_to(dataset.root)
    except UserError as error:
        assert str(root) in str(error)


@few
@given(st.sampled_from([(name, part) for name, (_, parts) in LISTS.items() for part in parts]), damages())
def test_damaged_lists(sets: Path, place: tuple[str, str], damage: Callable[[bytes], bytes]) -> None:
    name, part = place
    path = sets / LISTS[name][0] / part
    with replaced(path, damage(path.read_bytes())):
        loads_or_refuses(name, sets)


hostile_names = st.sampled_from(
    [
        "../secret.jpg",
        "/etc/passwd",
        "a/../../secret.jpg",
        "..",
        ".",
        "",
        "~/x.jpg",
        "\x00",
        "a" * 5000,
        "-",
        "..\\secret.jpg",
        "%2e%2e/secret.jpg",
        "0000/../../../secret.jpg",
        "\u2024\u2024/secret.jpg",
        "\ud83d\ude00.jpg",
    ]
)
hostile_numbers = st.sampled_from(["0", "-1", "9" * 30, "9" * 5000, "1e3", "٣", "²", "0x1", "", "nan", "1_0"])


@few
@given(
    st.sampled_from([(name, part) for name, (_, parts) in LISTS.items() for part in parts]),
    hostile_names | st.text(max_size=30),
    hostile_numbers | st.text(max_size=5),
    st.booleans(),
)
@example(("vehicleid", "train_test_split/train_list.txt"), "../../secret", "1", False)
@example(("msmt17", "list_train.txt"), "../../secret.jpg", "1", True)
@example(("veri776", "name_query.txt"), "../../secret.jpg", "", True)
def test_hostile_list_entries_stay_inside_or_are_refused(
    sets: Path, place: tuple[str, str], entry: str, number: str, first: bool
) -> None:
    name, part = place
    path = sets / LISTS[name][0] / part
    line = f"{entry} {number}\n".encode("utf-8", "surrogatepass")
    good = path.read_bytes()
    with replaced(path, line + good if first else good + line):
        loads_or_refuses(name, sets)


@few
@given(st.sampled_from(list(LISTS)), st.integers(0, 10), hostile_numbers)
def test_hostile_identities(sets: Path, name: str, at: int, number: str) -> None:
    path = sets / LISTS[name][0] / LISTS[name][1][0]
    lines = path.read_text().splitlines()
    lines[at] = f"{lines[at].split()[0]} {number}"
    with replaced(path, "\n".join(lines).encode()):
        loads_or_refuses(name, sets)


@pytest.mark.parametrize("entry", ["../secret.jpg", "/etc/passwd", "a/../../../secret.jpg"])
@pytest.mark.parametrize("name", ["msmt17", "veri776"])
def test_a_list_that_leads_out_of_its_folder_is_refused(sets: Path, name: str, entry: str) -> None:
    path = sets / LISTS[name][0] / LISTS[name][1][0]
    with replaced(path, f"{entry} 1\n".encode()), pytest.raises(UserError, match="points outside"):
        load_dataset(name, sets)


@few
@given(
    st.sampled_from(["bounding_box_train", "query", "bounding_box_test"]),
    st.text(st.characters(exclude_characters="/\x00", codec="utf-8"), min_size=1, max_size=40).filter(
        lambda name: name not in (".", "..")
    )
    | st.sampled_from([f"{'9' * 200}_c1", "٣_c٣s1", "0002_c" + "9" * 200, "-1_c0", "-2_c1", "0001_c1\n"]),
)
def test_hostile_file_names(sets: Path, folder: str, name: str) -> None:
    path = sets / "Market-1501-v15.09.15" / folder / f"{name[:40]}.jpg"
    good = next((sets / "Market-1501-v15.09.15" / folder).glob("*.jpg")).read_bytes()
    try:
        path.write_bytes(good)
    except OSError:  # too long, or no name for this file system
        return
    try:
        loads_or_refuses("market1501", sets)
    finally:
        path.unlink()


@few
@given(json_values.map(json.dumps).map(str.encode) | st.binary(max_size=50))
@example(DEEP.encode())
@example(HUGE.encode())
def test_a_strange_world_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "world.json").write_bytes(content)
    with contextlib.suppress(UserError):
        read_world(tmp_path)


@few
@given(damages(), st.sampled_from(["jpg", "png"]))
def test_damaged_images(tmp_path: Path, damage: Callable[[bytes], bytes], kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG" if kind == "jpg" else "PNG")
    path = tmp_path / f"x.{kind}"
    path.write_bytes(damage(buffer.getvalue()))
    try:
        assert decode(path, 8, 8).shape == (8, 8, 3)
    except UserError as error:
        assert str(path) in str(error)


def test_an_image_that_claims_to_be_immense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"  # 65 bytes that decode to 10 GB
    PIL.Image.new("1", (1, 1)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"bomb\.png"):
        decode(path, 8, 8)


# Weights and checkpoints


class Bomb:
    """Unpickling it would leave a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


NETWORK = "msinet_x0_25"


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return build_model(NETWORK, 3)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("where", ["whole", "inside", "zip"])
def test_pickle_bombs_do_not_execute(network: torch.nn.Module, tmp_path: Path, where: str, protocol: int) -> None:
    bomb: Any = Bomb(tmp_path / "exploded")
    payload: Any = bomb if where == "whole" else {"identity": "x", "model": bomb, "state_dict": {"a": bomb}}
    for name in ("checkpoint.pt", "weights.pth", "weights.tar"):
        if where == "zip":
            torch.save(payload, tmp_path / name, pickle_protocol=protocol)
        else:
            (tmp_path / name).write_bytes(pickle.dumps(payload, protocol))
    with pytest.raises(WeightsError, match="cannot be read"):
        load_checkpoint(tmp_path, "x")
    for name in ("weights.pth", "weights.tar"):
        with pytest.raises(WeightsError, match=name):
            load_weights(network, tmp_path / name)
    assert not (tmp_path / "exploded").exists()
    with contextlib.suppress(Exception):
        torch.load(tmp_path / "weights.pth", weights_only=False)
    assert (tmp_path / "exploded").exists()  # it would have


@pytest.fixture(scope="module")
def checkpoint(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, "x", {"network": network.state_dict()}, {"epoch": 1})
    return (folder / "checkpoint.pt").read_bytes()


@few
@given(damages())
def test_damaged_checkpoints(
    network: torch.nn.Module, checkpoint: bytes, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    bad = damage(checkpoint)
    (tmp_path / "checkpoint.pt").write_bytes(bad)
    with contextlib.suppress(WeightsError):
        state = load_checkpoint(tmp_path, "x")
        assert state is not None
        assert state["progress"] == {"epoch": 1}
        # Every wrong byte is noticed: a loaded weight is the one that was saved.
        saved = network.state_dict()
        assert state["task"]["network"].keys() == saved.keys()
        assert all(torch.equal(saved[key], value) for key, value in state["task"]["network"].items())


@settings(few, max_examples=15 * TIMES)
@given(damages(), st.sampled_from(["pth", "old", "safetensors"]))
def test_damaged_weights(network: torch.nn.Module, tmp_path: Path, damage: Callable[[bytes], bytes], kind: str) -> None:
    good = tmp_path / ("good.safetensors" if kind == "safetensors" else "good.pth")
    if kind == "safetensors":
        save_weights(network, good, {"model": NETWORK})
    else:
        torch.save(network.state_dict(), good, _use_new_zipfile_serialization=kind == "pth")
    bad = tmp_path / f"bad{good.suffix}"
    bad.write_bytes(damage(good.read_bytes()))
    try:
        load_weights(build_model(NETWORK, 3), bad)
    except WeightsError as error:
        assert str(bad) in str(error)


# Genotypes, records


@few
@given(st.text())
def test_any_text_as_a_genotype(text: str) -> None:
    try:
        letters = check_genotype(text)
        assert set(letters) <= set("NEGA")
        assert len(letters) % 6 == 0
    except UserError as error:
        assert "not valid" in str(error)


@few
@given(json_values.map(json.dumps).map(str.encode) | st.binary(max_size=50))
@example(DEEP.encode())
@example(HUGE.encode())
@example(b'{"genotype": {"a": 1}}')
@example(b'{"genotype": null}')
def test_a_strange_genotype_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "genotype.json"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        assert set(read_genotype(path)) <= set("NEGA")


EXPERIMENT = Experiment("osnet", "market1501", "market1501", Recipe(schedule=Schedule(epochs=3)), "smoke")


@few
@given(
    st.sampled_from(["record.json", "experiment.json"]),
    json_values.map(json.dumps).map(str.encode) | st.binary(max_size=50) | damages(),
)
@example("record.json", DEEP.encode())
@example("experiment.json", b"[]")
@example("experiment.json", b'{"recipe": [], "options": []}')
@example("experiment.json", b'{"recipe": {"augmentation": 3}, "options": 3}')
@example("record.json", b'["run_id"]')
def test_strange_records(tmp_path: Path, name: str, content: bytes | Callable[[bytes], bytes]) -> None:
    store = Store(tmp_path / "results")
    if not store.done("r1"):
        store.partial_folder("r1").mkdir(parents=True, exist_ok=True)
        store.publish("r1", EXPERIMENT, {"mAP": 0.5, "R1": 0.5})
    path = store.run_folder("r1") / name
    with replaced(path, content if isinstance(content, bytes) else content(path.read_bytes())):
        try:
            assert len(store.frame()) == 1
        except UserError as error:
            assert "remove it" in str(error)


# Words of the command line


@few
@given(st.lists(st.text() | st.from_regex(r"[a-z_]{1,20}=.{0,20}", fullmatch=True), max_size=3))
@example(["lr=" + "(" * 5000])
@example(["lr={[]: 1}"])
@example(["epochs=" + "9" * 5000])
@example(["epochs=" + "-" * 100_000 + "1"])
@example(["lr=1\x00"])
@example(["lr=1e999"])
@example(["epochs=-1"])
@example(["lr=nan"])
def test_any_words_as_settings_of_a_recipe(words: list[str]) -> None:
    with contextlib.suppress(UserError):
        override(resolve("smoke", "market1501").recipe, parse_settings(words))


#: Commands that end with an error when they look at their data, and options that take strange values.
COMMANDS = {
    "train": (
        msinet,
        ["train", "--data-root", "EMPTY", "--out", "out"],
        ("--model", "--recipe", "--seed", "--options", "--data-root", "--dataset", "--target", "--name", "--weights"),
    ),
    "evaluate": (
        msinet,
        ["evaluate", "--data-root", "EMPTY", "--weights", "none"],
        ("--model", "--dataset", "--data-root", "--lambda", "--k1"),
    ),
    "embed": (
        msinet,
        ["embed", "EMPTY", "--weights", "none"],
        ("--out", "--model", "--options", "--height", "--width"),
    ),
    "find": (msinet, ["find", "EMPTY", "--gallery", "EMPTY", "--weights", "none"], ("--k", "--out", "--gallery")),
    "export": (
        msinet,
        ["export", "--weights", "none", "--out", "x.onnx"],
        ("--out", "--weights", "--model", "--options"),
    ),
    "check": (msinet, ["data", "check", "EMPTY"], ("--datasets", "--name")),
    "split": (msinet, ["data", "split", "EMPTY"], ("--out", "--test", "--queries", "--seed")),
    "show": (msinet, ["data", "show", "EMPTY"], ("--datasets", "--name", "--out", "--rows")),
    "figure6": (reports, ["figure6", "--data-root", "EMPTY", "--weights", "none"], ("--images", "--weights", "--name")),
    "ranked": (reports, ["ranked", "--data-root", "EMPTY", "--weights", "none"], ("--queries", "--out", "--datasets")),
    "status": (
        ablations,
        ["status", "table2", "--data-root", "EMPTY"],
        ("--profile", "--seeds", "--recipe", "--name", "--data-root"),
    ),
    "run": (
        ablations,
        ["run", "table1", "--data-root", "EMPTY"],
        ("--datasets", "--models", "--jobs", "--attempts", "--hours", "--threads"),
    ),
    "cost": (bench, ["cost", "--models", "none"], ("--height", "--width", "--csv")),
    "table": (reports, ["table", "table2", "--data-root", "EMPTY"], ("--profile", "--search-recipe", "--store")),
}
strange = st.sampled_from(
    [
        "",
        " ",
        "-1",
        "0",
        "nan",
        "1e999",
        "9" * 5000,
        "../../x",
        "\u202e",
        "a" * 3000,
        "--",
        "=",
        "~",
        "None",
        "a=b",
        "://",
        "~nobody/x",
        "a\x00b",
        "\udcff",
        "EMPTY/x.csv",
    ]
)


@settings(few, max_examples=25 * TIMES)
@example("status", [(4, "\x00")])  # a data root
@example("table", [(2, "9" * 5000)])  # longer than the system lets a file's name be
@given(
    st.sampled_from(list(COMMANDS)),
    st.lists(st.tuples(st.integers(0, 9), strange | st.text(max_size=20)), min_size=1, max_size=3),
)
def test_strange_words_end_in_an_error_and_not_in_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, name: str, more: list[tuple[int, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir(exist_ok=True)
    program, words, options = COMMANDS[name]
    words = [*words, *(word for place, text in more for word in (options[place % len(options)], text))]
    try:
        status = quietly(lambda: program(words))  # as the entry points do: output that is no text is escaped
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 2
    except Exception:  # words that are no text would stop the test runner: it sends reports between processes
        pytest.fail(ascii(traceback.format_exc()).replace(r"\n", "\n"), pytrace=False)
    out, err = capsys.readouterr()
    assert status == 2, ascii(out + err)
    assert "Traceback" not in out + err
    assert err.startswith("error: ") or "--help" in err + out  # ours, or the parser's


@few
@given(
    st.sampled_from(
        [
            ("msinet", "ratio"),
            ("msinet", "genotype"),
            ("msinet", "fusion"),
            ("resnet18", "neck"),
            ("deit_small", "depth"),
        ]
    )
    | st.tuples(st.sampled_from(["osnet", "supernet", "vit_base"]), st.sampled_from(["pam", "patch", "interactions"])),
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.text(max_size=14)
    | st.lists(st.integers(), max_size=2),
)
def test_any_value_as_an_option_of_a_network(place: tuple[str, str], value: Any) -> None:
    network, option = place
    with contextlib.suppress(UserError):
        build_model(f"{network}_x0_25", 2, image=(32, 16), **{option: value})


def test_a_network_larger_than_the_memory_is_a_user_error() -> None:
    with pytest.raises(UserError, match="not enough memory"), file_errors():
        build_model("msinet_x9999_0", 2)
