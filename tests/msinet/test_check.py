"""`msinet data check`: what it prints about a data root, and its exit status."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from msinet.cli import run_command
from msinet.data import load_dataset
from msinet.data.datasets import REGISTERED, DatasetCard, register

Copy = Callable[[str], Path]


def check(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Exit status, output and error output."""
    status = run_command(["data", "check", *map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def section(output: str, name: str) -> list[str]:
    """The lines about one set, with single spaces."""
    (text,) = (part for part in output.split("\n\n") if part.startswith((f"{name}:", f"{name}\n")))
    return [" ".join(line.split()) for line in text.splitlines()]


def test_everything_recognised_is_listed(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, output, _ = check(capsys, data_root)
    assert status == 0
    headers = re.findall(r"^(\w+): (.*) in (.*)$", output, re.MULTILINE)
    assert [header[:2] for header in headers] == [
        ("market1501", "Market-1501"),
        ("msmt17", "MSMT17_V1"),
        ("veri776", "VeRi-776"),
        ("vehicleid", "VehicleID"),
    ]
    assert Path(headers[2][2]) == (data_root / "VeRi").resolve()


def test_the_shorter_lists_of_vehicleid_are_looked_at_on_request(
    data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, output, _ = check(capsys, data_root, "--datasets", "vehicleid_800", "vehicleid_1600")
    assert status == 0
    assert re.findall(r"^(\w+): VehicleID in ", output, re.MULTILINE) == ["vehicleid_800", "vehicleid_1600"]


def test_rendered_sets_are_called_so(world_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, output, _ = check(capsys, world_root)
    assert status == 0
    assert re.findall(r"^(\w+): .*, rendered in ", output, re.MULTILINE) == [
        "market1501",
        "msmt17",
        "veri776",
        "vehicleid",
    ]


def test_counts_stand_beside_the_published_ones(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, output, _ = check(capsys, data_root, "--datasets", "market1501", "vehicleid")
    dataset = load_dataset("market1501", data_root)
    assert section(output, "market1501")[1:] == [
        "split identities images cameras published",
        "train 8 31 3 751 12936 6",
        "query 5 10 2 750 3368 6",
        "gallery 6 33 3 751 15913 6",
        "10 of 10 queries ranked",
        "3 junk images of identity -1 left out",
        "1 training identities with a single image (it is repeated within a batch)",
        "3 distractors of identity 0 kept in the gallery",
        "all 74 images decode",
        f"fingerprint {dataset.fingerprint}",
    ]
    assert section(output, "vehicleid")[2:9] == [
        "train 8 32 1 13164 113346 1",
        "query 4 12 1 2400 17377 1",
        "gallery 5 5 1 2400 2400 1",
        "12 of 12 queries ranked",
        "no gallery image is left out because of its camera",
        "10 seeded draws of one gallery image per identity, metrics are averaged",
        "all 49 images decode",
    ]


def test_published_counts_are_recognised(
    data_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    card, parser = REGISTERED["veri776"]
    published = {"train": (8, 32, 3), "query": (5, 5, 2), "gallery": (5, 21, 4)}
    monkeypatch.setitem(REGISTERED, "veri776", (replace(card, expected=published), parser))
    _, output, _ = check(capsys, data_root, "--datasets", "veri776")
    assert section(output, "veri776")[2:5] == ["train 8 32 3 the same", "query 5 5 1 5 5 2", "gallery 5 20 4 5 21 4"]


@pytest.mark.usefixtures("registered")
def test_a_set_with_an_underscore_in_its_name_is_found(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "test"}
    register(DatasetCard("my_set", "MY", 50, "person", folders=("Mine",), needs=tuple(folders.values())))(
        lambda _: replace(load_dataset("market1501", data_root), name="my_set", root=data_root, junk=0)
    )
    for name in folders.values():
        (tmp_path / "Mine" / name).mkdir(parents=True)
    status, output, _ = check(capsys, tmp_path)
    assert status == 0
    assert section(output, "my_set")[1:5] == [
        "split identities images cameras published",
        "train 8 31 3 -",  # no published counts
        "query 5 10 2 -",
        "gallery 6 33 3 -",
    ]


def test_the_folder_of_one_set_will_do(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, output, _ = check(capsys, data_root / "MSMT17_V1")
    assert status == 0
    assert "msmt17: MSMT17_V1" in output
    assert "market1501" not in output


@pytest.mark.parametrize(("decode", "expected"), [("--decode", 1), ("--no-decode", 0)])
def test_a_truncated_image_is_named(
    own_copy: Copy, capsys: pytest.CaptureFixture[str], decode: str, expected: int
) -> None:
    folder = own_copy("market1501")
    paths = [folder / "bounding_box_train/0008_c1s1_000000_01.jpg", folder / "query/0001_c1s1_000020_01.jpg"]
    for path in paths:
        os.truncate(path, path.stat().st_size // 2)
    status, output, _ = check(capsys, folder, decode)
    assert status == expected
    assert [f"UNREADABLE {path}: cannot be decoded" in output for path in paths] == [bool(expected)] * 2
    assert "images decode" not in output
    assert "fingerprint" in output


def test_junk_may_be_broken(own_copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    """No split holds it, so it is never read."""
    folder = own_copy("market1501")
    (folder / "bounding_box_test" / "-1_c1s1_000000_01.jpg").write_bytes(b"")
    assert check(capsys, folder)[0] == 0


def test_an_unusable_set_does_not_hide_the_others(own_copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    root = own_copy("market1501").parent
    veri = own_copy("veri776")
    (veri / "image_test" / "0030_c001_00000000_0.jpg").unlink()
    status, output, _ = check(capsys, root)
    assert status == 1
    assert re.fullmatch(r"UNUSABLE: .*name_test\.txt:1: .* does not exist; .*", section(output, "veri776")[1])
    assert "all 74 images decode" in section(output, "market1501")


def test_a_set_that_was_asked_for_and_is_not_there(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, output, _ = check(capsys, data_root / "VeRi", "--datasets", "veri776", "msmt17")
    assert status == 1
    assert section(output, "msmt17")[1].startswith("UNUSABLE: no msmt17 under")
    assert "all 57 images decode" in section(output, "veri776")


def test_an_unknown_name_lists_the_known_ones(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = check(capsys, data_root, "--datasets", "veri")
    assert status == 2
    assert errors.startswith("error: unknown data set 'veri'.")
    for name in ("market1501", "msmt17", "veri776", "vehicleid", "vehicleid_800", "vehicleid_1600"):
        assert name in errors


def test_a_root_without_sets_says_what_a_set_looks_like(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, output, errors = check(capsys, tmp_path)
    assert (status, output) == (2, "")
    assert errors.startswith(f"error: no known layout under {tmp_path}.")
    for part in (
        "market1501: bounding_box_train, query",
        "list_gallery.txt",
        "veri776: image_train",
        "vehicleid: image",
    ):
        assert part in errors


def test_a_missing_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = check(capsys, tmp_path / "nowhere")
    assert status == 2
    assert errors.startswith(
        f"error: data root {tmp_path / 'nowhere'} does not exist; pass the folder of the data sets"
    )


def test_the_second_version_of_msmt17_is_reported(own_copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    folder = own_copy("msmt17")
    for part in ("train", "test"):
        shutil.move(folder / part, folder / f"mask_{part}_v2")
    assert "msmt17: MSMT17_V2" in check(capsys, folder)[1]
