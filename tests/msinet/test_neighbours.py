"""Features and neighbours of images without labels, their files, and the interface of the package."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import safetensors.torch
import torch

import msinet
from msinet import neighbours
from msinet.cli import run_command
from msinet.errors import DataError, UserError
from msinet.models import build_model, save_weights
from msinet.neighbour_lists import find, gallery_of
from msinet.neighbours import Collection, collect, load_network
from tests.conftest import draw

QUIET = ("--device", "cpu", "--no-progress")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small untrained network that name it. Shared: do not change them."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    torch.manual_seed(0)
    notes = {"model": "resnet18_x0_25", "options": "{}", "num_classes": "3", "height": "32", "width": "16"}
    save_weights(build_model("resnet18_x0_25", 3), path, notes)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve images of four persons, in two folders, and one file that is no image."""
    for n in range(12):
        draw(tmp_path / "photos" / f"day {n % 2}" / f"IMG_{n:03d}.jpg", 10, n % 4, 1, n, 32, 16)
    (tmp_path / "photos" / "day 0" / "notes.txt").write_text("not an image")
    return tmp_path / "photos"


def distances(embedder: neighbours.Embedder, query: Path, paths: list[Path]) -> list[float]:
    """Euclidean distances between unit features in float64, one image at a time."""
    rows = [embedder.embed([path])[0].astype(np.float64) for path in [query, *paths]]
    units = [row / np.linalg.norm(row) for row in rows]
    return [float(np.linalg.norm(units[0] - unit)) for unit in units[1:]]


def test_five_lines_of_python(weights: Path, photos: Path) -> None:
    network = msinet.load_network(weights, device="cpu")
    paths = msinet.image_files(photos)
    features = network.embed(paths)
    pixels = msinet.decode(paths[0], network.height, network.width)
    one = network(msinet.normalize(pixels)[None])
    np.testing.assert_allclose(one[0].numpy(), features[0], rtol=1e-4, atol=1e-5)
    rows, squares = msinet.top_k(one.numpy(), features, 3)
    assert rows[0, 0] == 0
    expected = sorted(distances(network, paths[0], paths))[:3]
    np.testing.assert_allclose(np.sqrt(squares[0]), expected, atol=2e-3)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, msinet; assert {'decode', 'load_network'} <= set(msinet.__all__); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = msinet.nothing


def test_a_folder_is_embedded_without_labels(weights: Path, photos: Path, tmp_path: Path) -> None:
    for out in ("f.npz", "f.csv"):
        words = ["embed", str(photos), "--weights", str(weights), "--out", str(tmp_path / out), *QUIET]
        assert run_command(words) == 0
    with np.load(tmp_path / "f.npz") as found:
        paths, features = found["paths"].tolist(), found["features"]
    assert paths == [path.relative_to(photos).as_posix() for path in msinet.image_files(photos)]
    assert len(paths) == 12
    with (tmp_path / "f.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0][:2] == ["path", "f0"]
    np.testing.assert_array_equal(np.array([row[1:] for row in rows[1:]], np.float32), features)
    np.testing.assert_allclose(
        load_network(weights, device="cpu").embed([photos / paths[5]])[0], features[5], rtol=1e-4, atol=1e-5
    )


def test_one_image_is_embedded(weights: Path, photos: Path, tmp_path: Path) -> None:
    image = photos / "day 1" / "IMG_001.jpg"
    assert run_command(["embed", str(image), "--weights", str(weights), "--out", str(tmp_path / "f.npz"), *QUIET]) == 0
    with np.load(tmp_path / "f.npz") as found:
        assert found["paths"].tolist() == ["IMG_001.jpg"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["embed", "--weights", "W"], "embed needs either a folder of images"),
        (["embed", "photos", "--data-root", "photos", "--weights", "W"], "embed needs either a folder of images"),
        (["embed", "photos", "--weights", "W", "--out", "f.txt"], "the suffix chooses the format, .npz or .csv"),
        (["embed", "phots", "--weights", "W"], "Did you mean 'photos'"),
        (["embed", "empty", "--weights", "W"], "holds no images: no file ends with"),
        (["embed", "photos", "--weights", "W", "--dataset", "x"], "--dataset has no effect on a folder of images"),
        (
            ["embed", "photos", "--weights", "W", "--name", "x", "--keep-same-camera"],
            "--name, --keep-same-camera has no",
        ),
        (["embed", "photos", "--weights", "photos"], "weights file photos is a folder"),
        (["find", "photos", "--gallery", "photos", "--weights", "W", "--k", "0"], "--k must be at least 1"),
        (["export", "--weights", "W", "--out", "net.bin"], "the suffix chooses the format: .onnx, or .pt"),
        (["embed", "photos", "--weights", "W", "--height", "8"], "height must be at least 16"),
    ],
)
def test_what_cannot_be_embedded_is_said(
    weights: Path, photos: Path, tmp_path: Path, monkeypatch, capsys, words: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run_command([str(weights) if word == "W" else word for word in words]) == 2
    assert message in capsys.readouterr().err


def test_neighbours_are_found_and_written(weights: Path, photos: Path, tmp_path: Path, capsys) -> None:
    query = photos / "day 0" / "IMG_002.jpg"
    words = ["find", str(query), "--gallery", str(photos), "--weights", str(weights), *QUIET]
    assert run_command([*words, "--k", "5", "--out", str(tmp_path / "found")]) == 0
    with (tmp_path / "found" / "ranked.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    others = [path for path in msinet.image_files(photos) if path != query]
    expected = distances(load_network(weights, device="cpu"), query, others)
    order = np.argsort(expected)[:5]
    assert [Path(row["image"]) for row in rows] == [others[i] for i in order]
    np.testing.assert_allclose([float(row["distance"]) for row in rows], np.array(expected)[order], atol=2e-3)
    page = (tmp_path / "found" / "ranked.html").read_text(encoding="utf-8")
    assert page.count("<figure") == 6
    assert "http" not in page
    with PIL.Image.open(tmp_path / "found" / "ranked.png") as picture:
        assert picture.width > 6 * 64
    assert rows[0]["image"] in capsys.readouterr().out


def test_identities_of_a_list_are_shown(weights: Path, photos: Path, tmp_path: Path) -> None:
    lines = ["path,identity,split"]
    for path in msinet.image_files(photos):
        number = int(path.stem[-3:])
        lines.append(
            f"photos/{path.relative_to(photos).as_posix()},who-{number % 4},{'query' if number < 4 else 'gallery'}"
        )
    (tmp_path / "own.csv").write_text("\n".join(lines))
    words = ["find", str(photos / "day 0"), "--gallery", str(tmp_path / "own.csv"), "--weights", str(weights), *QUIET]
    assert run_command([*words, "--out", str(tmp_path / "found")]) == 0
    with (tmp_path / "found" / "ranked.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6 * 10
    assert all(row["identity"] == f"who-{int(Path(row['image']).stem[-3:]) % 4}" for row in rows)
    assert 'class="right"' in (tmp_path / "found" / "ranked.html").read_text(encoding="utf-8")


def test_a_query_by_way_of_a_link_is_left_out_and_has_its_label(weights: Path, photos: Path, tmp_path: Path) -> None:
    paths = msinet.image_files(photos)
    lines = ["path,identity,split", *(f"{path},who-{int(path.stem[-3:]) % 4},gallery" for path in paths)]
    (tmp_path / "own.csv").write_text("\n".join(lines))
    (tmp_path / "link").symlink_to(photos)
    query = tmp_path / "link" / paths[0].relative_to(photos)
    embedder = load_network(weights, device="cpu")
    gallery, labels = gallery_of(tmp_path / "own.csv")
    (one,) = find(collect(embedder, weights, [query]), collect(embedder, weights, gallery), 20, labels)
    assert one.query == query
    assert one.label == labels[paths[0]]
    assert sorted(found.path for found in one.neighbours) == paths[1:]
    assert all(found.label == labels[found.path] for found in one.neighbours)


def test_a_list_is_full_if_several_paths_lead_to_the_query(weights: Path, photos: Path) -> None:
    query = photos / "day 0" / "IMG_000.jpg"
    for n in range(3):
        (photos / f"link{n}.jpg").symlink_to(query)
    embedder = load_network(weights, device="cpu")
    own, paths = collect(embedder, weights, [query]), msinet.image_files(photos)
    others = [path for path in paths if path.resolve() != query]
    order = np.argsort(distances(embedder, query, others), kind="stable")
    for k in (1, 5, 11, 20):
        (one,) = find(own, collect(embedder, weights, paths), k)
        assert [found.path for found in one.neighbours] == [others[i] for i in order[:k]]


@pytest.mark.parametrize(
    ("text", "message"), [("", "is not a list of images"), ("path,identity,split\n", "own.csv lists no images")]
)
def test_a_list_without_images_is_no_gallery(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        gallery_of(tmp_path / "own.csv")


@pytest.mark.parametrize("command", ["embed", "find", "evaluate"])
def test_a_file_that_cannot_be_written_is_an_error_before_images_are_embedded(
    command: str, weights: Path, photos: Path, data_root: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(neighbours.Embedder, "__call__", lambda *_: pytest.fail("it embeds images"))
    images = {"embed": [photos], "find": [photos, "--gallery", photos], "evaluate": ["--data-root", data_root]}
    out = tmp_path / "file" / {"embed": "f.npz", "find": "found", "evaluate": "m.json"}[command]
    words = [command, *images[command], "--weights", weights, "--out", out, *QUIET]
    assert run_command([str(word) for word in words]) == 2
    assert "file is a file, not a folder" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_named(
    weights: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("MSINET_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot write .*file/features.*set MSINET_CACHE .* or pass --cache False"):
        collect(load_network(weights, device="cpu"), weights, msinet.image_files(photos))


def test_features_are_kept_until_a_file_or_the_weights_change(
    weights: Path, photos: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder, paths = load_network(weights, device="cpu"), msinet.image_files(photos)
    first = collect(embedder, weights, paths)
    rows = np.array(first.features)
    decoded: list[Path] = []
    original = neighbours.decode_or_note
    monkeypatch.setattr(neighbours, "decode_or_note", lambda path, *rest: decoded.append(path) or original(path, *rest))
    assert collect(embedder, weights, paths).path(3) == paths[3]
    assert not decoded
    image = PIL.Image.open(paths[3])
    image.rotate(180).save(paths[3])
    again = collect(embedder, weights, paths)
    assert len(decoded) == 12
    changed = np.abs(np.array(again.features) - rows).max(1) > 1e-6
    assert changed.tolist() == [i == 3 for i in range(12)]
    other = tmp_path / "other.safetensors"
    save_weights(embedder.network, other, {"model": "resnet18_x0_25", "seed": "another"})
    collect(embedder, other, paths)
    assert len(decoded) == 24


def test_networks_of_other_options_have_other_features(
    tmp_path: Path, photos: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`fusion` changes no weight and no module."""
    save_weights(build_model("msinet_x0_25", 3), tmp_path / "w.safetensors", {"model": "msinet_x0_25"})
    paths = msinet.image_files(photos)[:2]
    found = []
    for fusion in ("sum", "minus"):
        size = {"image": (32, 16), "device": "cpu"}
        embedder = load_network(tmp_path / "w.safetensors", options={"fusion": fusion}, **size)
        rows = np.array(collect(embedder, tmp_path / "w.safetensors", paths).features)
        np.testing.assert_allclose(rows, embedder.embed(paths), rtol=1e-4, atol=1e-5)
        found.append(rows)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_features_of_random_entries_are_not_kept(weights: Path, tmp_path: Path, photos: Path, own_cache: Path) -> None:
    state = {key: value for key, value in safetensors.torch.load_file(weights).items() if "layer4" not in key}
    torch.save(state, tmp_path / "part.pth")
    paths = msinet.image_files(photos)[:2]
    for seed in (1, 2):
        torch.manual_seed(seed)
        size = {"image": (32, 16), "device": "cpu"}
        embedder = load_network(tmp_path / "part.pth", "resnet18_x0_25", partial=True, **size)
        rows = collect(embedder, tmp_path / "part.pth", paths).features
        np.testing.assert_allclose(rows, embedder.embed(paths), rtol=1e-4, atol=1e-5)
    assert not own_cache.exists()
    whole = load_network(weights, partial=True, device="cpu")
    collect(whole, weights, paths)
    assert len(list((own_cache / "features").iterdir())) == 3


def test_the_cache_of_features_can_be_refused(weights: Path, photos: Path, tmp_path: Path, own_cache: Path) -> None:
    words = ["--weights", str(weights), "--cache", "False", *QUIET]
    assert run_command(["find", str(photos), "--gallery", str(photos), "--out", str(tmp_path / "found"), *words]) == 0
    assert run_command(["embed", str(photos), "--out", str(tmp_path / "f.npz"), *words]) == 0
    assert not own_cache.exists()
    with np.load(tmp_path / "f.npz") as found:
        expected = load_network(weights, device="cpu").embed(msinet.image_files(photos))
        np.testing.assert_allclose(found["features"], expected, rtol=1e-4, atol=1e-5)


def test_a_link_to_nothing_is_an_image_that_cannot_be_decoded(
    weights: Path, photos: Path, tmp_path: Path, own_cache: Path, capsys
) -> None:
    (photos / "day 0" / "gone.jpg").symlink_to("nowhere.jpg")
    words = ["embed", str(photos), "--weights", str(weights), "--out", str(tmp_path / "f.npz"), *QUIET]
    assert run_command(words) == 0
    assert "1 of 13 image(s) left out" in (err := capsys.readouterr().err)
    assert "gone.jpg: cannot be decoded" in err
    draw(photos / "day 0" / "nowhere.jpg", 10, 0, 1, 99, 32, 16)  # the target comes back
    assert run_command(words) == 0
    assert "left out" not in capsys.readouterr().err


def test_images_that_cannot_be_decoded_are_left_out_and_named(
    weights: Path, photos: Path, tmp_path: Path, own_cache: Path, capsys
) -> None:
    (photos / "day 0" / "IMG_000.jpg").write_bytes(b"\xff\xd8\xffbroken")
    words = ["embed", str(photos), "--weights", str(weights), "--out", str(tmp_path / "f.npz"), *QUIET]
    for _ in range(2):  # from the network, then from the cache
        assert run_command(words) == 0
        assert "1 of 12 image(s) left out" in (err := capsys.readouterr().err)
        assert "IMG_000.jpg: cannot be decoded" in err
        with np.load(tmp_path / "f.npz") as found:
            assert len(found["paths"]) == len(found["features"]) == 11
    with pytest.raises(DataError, match=r"IMG_000\.jpg"):
        load_network(weights, device="cpu").embed(msinet.image_files(photos))


def test_a_collection_is_ranked_from_disk(tmp_path: Path) -> None:
    """Rows and paths of a collection that no network made, against NumPy."""
    rng = np.random.default_rng(0)
    features, query = rng.standard_normal((500, 8)).astype(np.float32), rng.standard_normal((3, 8)).astype(np.float32)
    (tmp_path / "f").write_bytes(features.tobytes())
    (tmp_path / "p").write_bytes(b"".join(f"/images/{i}\u00e9.jpg".encode() + b"\0" for i in range(500)))
    (tmp_path / "u").write_text("")
    found = Collection(tmp_path / "f", tmp_path / "p", tmp_path / "u")
    rows, far = found.nearest(query, 4)
    units = [
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (query.astype(float), features.astype(float))
    ]
    expected = np.linalg.norm(units[0][:, None] - units[1], axis=2)
    np.testing.assert_array_equal(rows, np.argsort(expected, axis=1)[:, :4])
    np.testing.assert_allclose(far, np.sort(expected, axis=1)[:, :4], atol=1e-3)
    assert (len(found), found.path(0), found.path(499)) == (
        500,
        Path("/images/0\u00e9.jpg"),
        Path("/images/499\u00e9.jpg"),
    )


def test_unreadable_notes_of_weights_are_errors(weights: Path, tmp_path: Path) -> None:
    network = build_model("resnet18_x0_25", 3)
    for notes, message in (
        ({"model": "resnet18_x0_25", "options": "["}, "options of the network cannot be read"),
        ({"model": "resnet18_x0_25", "height": "tall"}, "its note height is 'tall'"),
        ({}, "does not say which network"),
        ({"model": "resnet19"}, "Did you mean 'resnet18'"),
    ):
        save_weights(network, tmp_path / "odd.safetensors", notes)
        with pytest.raises(UserError, match=message):
            load_network(tmp_path / "odd.safetensors", device="cpu")


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_exports_are_chosen_by_suffix_and_say_how_to_use_them(weights: Path, tmp_path: Path, capsys) -> None:
    assert run_command(["export", "--weights", str(weights), "--out", str(tmp_path / "net.torchscript")]) == 0
    notes = {"mean": "", "std": "", "height": "", "width": "", "network": "", "features": ""}
    program = torch.jit.load(tmp_path / "net.torchscript", _extra_files=notes)
    found = {name: value.decode() if isinstance(value, bytes) else value for name, value in notes.items()}
    assert found["mean"] == "0.485 0.456 0.406"
    assert found["std"] == "0.229 0.224 0.225"
    assert (found["height"], found["width"], found["network"], found["features"]) == (
        "32",
        "16",
        "resnet18_x0_25",
        "128",
    )
    images = torch.randn(5, 3, 32, 16)
    ours = load_network(weights, device="cpu")(images)
    torch.testing.assert_close(program(images), ours, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_an_onnx_file_says_how_to_use_it(weights: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    assert run_command(["export", "--weights", str(weights), "--out", str(tmp_path / "net.onnx")]) == 0
    found = {one.key: one.value for one in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert (found["mean"], found["std"]) == ("0.485 0.456 0.406", "0.229 0.224 0.225")
    assert (found["height"], found["width"], found["network"], found["features"]) == (
        "32",
        "16",
        "resnet18_x0_25",
        "128",
    )


def test_the_version_is_printed(capsys) -> None:
    assert run_command(["--version"]) == 0
    assert capsys.readouterr().out == f"msinet {msinet.__version__}\n"


def test_the_evaluation_of_given_weights_counts_queries(weights: Path, data_root: Path, tmp_path: Path, capsys) -> None:
    words = [
        "evaluate",
        "--weights",
        str(weights),
        "--data-root",
        str(data_root),
        *QUIET,
        "--out",
        str(tmp_path / "e.json"),
    ]
    assert run_command(words) == 0
    assert "10 of 10 queries ranked" in capsys.readouterr().out
    found = json.loads((tmp_path / "e.json").read_text())
    assert (found["queries"], found["queries_ranked"], found["same_camera"]) == (10, 10, "removed")
