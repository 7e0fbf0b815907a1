"""The commands of `msinet`: files, output, errors, help and start-up."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

import msinet
from msinet.cli import COMMANDS, DATA_COMMANDS, run_command
from msinet.data.layouts import cards
from msinet.environment import SPINS, TUNABLES
from msinet.models import CARDS, NetworkCard, build_model, load_weights
from msinet.models.weights import read_metadata
from msinet.retrieval import METRICS, evaluate
from msinet.training import supervised
from msinet.training.recipes import PROFILES

QUIET = ("--device", "cpu", "--no-progress")
NETWORK = "msinet_x0_25"


def train(data_root: Path, out: Path, *more: str) -> int:
    """`msinet train` at its smallest; a later option counts, not an earlier one."""
    words = ["train", "--data-root", data_root, "--out", out, "--model", NETWORK, "--profile", "smoke", *QUIET, *more]
    return run_command([str(word) for word in words])


def use(command: str, weights: Path, data_root: Path, *more: object) -> int:
    """`msinet evaluate` or `msinet embed`."""
    return run_command([str(w) for w in (command, "--weights", weights, "--data-root", data_root, *QUIET, *more)])


def metrics(path: Path) -> dict[str, float]:
    found = json.loads(path.read_text())
    return {name: found[name] for name in METRICS}


@pytest.fixture(scope="module")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on persons. Shared: do not change it."""
    folder = tmp_path_factory.mktemp("trained")
    assert train(data_root, folder, "--options", "ratio=2", "genotype=GGEGAGGNGAEN") == 0
    return folder


# --- Train, evaluate, embed ----------------------------------------------------------------------


def test_weights_say_what_they_are(trained: Path, data_root: Path, tmp_path: Path, capsys) -> None:
    noted = read_metadata(trained / "model.safetensors")
    assert noted["model"] == NETWORK
    assert json.loads(noted["options"]) == {"ratio": 2, "genotype": "GGEGAGGNGAEN"}
    assert (noted["height"], noted["width"], noted["num_classes"], noted["source"]) == ("32", "16", "8", "market1501")
    # So neither network nor image size need be given again.
    assert use("evaluate", trained / "model.safetensors", data_root, "--out", tmp_path / "again.json") == 0
    assert metrics(tmp_path / "again.json") == metrics(trained / "record.json")
    printed = capsys.readouterr().out
    assert "entries matched" in printed
    for name, value in metrics(trained / "record.json").items():
        assert f"{name} {100 * value:.1f}" in printed


def test_another_image_size_is_obeyed(trained: Path, data_root: Path, tmp_path: Path) -> None:
    weights, out = trained / "model.safetensors", tmp_path / "large.json"
    assert use("evaluate", weights, data_root, "--out", out, "--height", 64, "--width", 32) == 0
    found = json.loads(out.read_text())
    assert (found["height"], found["width"]) == (64, 32)
    assert metrics(out) != metrics(trained / "record.json")


def test_embedded_features_rank_to_the_same_metrics(trained: Path, data_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.npz"
    assert use("embed", trained / "model.safetensors", data_root, "--out", out) == 0
    with np.load(out) as file:  # no pickles in it
        found = {name: file[name] for name in file.files}
    images = len(found["paths"])
    assert images == 43  # 10 queries and 33 gallery images
    assert found["features"].shape == (images, 768 // 4)
    assert found["features"].dtype == np.float32
    for path, identity, camera in zip(found["paths"], found["identities"], found["cameras"], strict=True):
        assert (data_root / "Market-1501-v15.09.15" / path).is_file()
        assert re.search(rf"/{identity:04d}_c{camera}s", path)
    query, gallery = found["query"], found["gallery"]
    assert all(path.startswith("query/") for path in found["paths"][query])
    assert all(path.startswith("bounding_box_test/") for path in found["paths"][gallery])
    features = torch.from_numpy(found["features"])
    result = evaluate(
        features[query],
        features[gallery],
        query_ids=found["identities"][query],
        gallery_ids=found["identities"][gallery],
        query_cameras=found["cameras"][query],
        gallery_cameras=found["cameras"][gallery],
    )
    assert result.metrics() == metrics(trained / "record.json")


@pytest.mark.parametrize(("dataset", "draws"), [("msmt17", 1), ("veri776", 1), ("vehicleid", 10)])
def test_every_layout_can_be_trained_and_ranked(data_root: Path, tmp_path: Path, capsys, dataset, draws) -> None:
    assert train(data_root, tmp_path / "run", "--dataset", dataset) == 0
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["draws"] == draws
    noted = read_metadata(tmp_path / "run" / "model.safetensors")
    assert (noted["height"], noted["width"]) == ("32", "16" if dataset == "msmt17" else "32")
    weights, out = tmp_path / "run" / "model.safetensors", tmp_path / "again.json"
    assert use("evaluate", weights, data_root, "--dataset", dataset, "--out", out) == 0
    assert metrics(out) == metrics(tmp_path / "run" / "record.json")
    assert json.loads(out.read_text())["R1_std_draws"] == record["R1_std_draws"]
    assert (f"standard deviation over {draws} draws" in capsys.readouterr().out) == (draws > 1)


def test_a_transformer_is_trained_and_found_again(data_root: Path, tmp_path: Path) -> None:
    assert train(data_root, tmp_path / "run", "--model", "deit_small_x0_25", "--options", "depth=2") == 0
    weights, out = tmp_path / "run" / "model.safetensors", tmp_path / "again.json"
    assert use("evaluate", weights, data_root, "--out", out) == 0
    assert metrics(out) == metrics(tmp_path / "run" / "record.json")


def test_reranking_is_asked_for_and_said(trained: Path, data_root: Path, tmp_path: Path, capsys) -> None:
    weights = trained / "model.safetensors"
    assert use("evaluate", weights, data_root, "--rerank", "--out", tmp_path / "a.json") == 0
    assert "market1501, re-ranked with k1 20, k2 6, lambda 0.3: mAP" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["reranked"] is True
    assert use("evaluate", weights, data_root, "--blur", "5", "--out", tmp_path / "a.json") == 0
    assert "market1501, 5 nearest blurred: mAP" in capsys.readouterr().out
    written = json.loads((tmp_path / "a.json").read_text())
    assert (written["blurred"], written["blur_temperature"]) == (5, 0.1)
    for words in (("--blur", "-1"), ("--blur", "5", "--rerank")):
        assert use("evaluate", weights, data_root, *words) == 2
        assert "--blur takes a number of images above 0 and does not go with --rerank" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rerank", "--lambda", "1.5"], "the weight of the original distance (lambda) must lie in [0, 1], got 1.5"),
        (["--rerank", "--k1", "5"], "re-ranking needs 1 <= k2 <= k1 < images, got k2 = 6, k1 = 5, 43 images"),
        (["--rerank", "--k1", "43"], "got k2 = 6, k1 = 43, 43 images"),
        (["--blur", "5", "--blur-temperature", "0"], "a temperature above 0, got 5 and 0"),
        (["--k1", "3", "--lambda", "0.5"], "--k1, --lambda has no effect without --rerank"),
        (["--blur", "5", "--k2", "2"], "--k2 has no effect without --rerank"),
        (["--rerank", "--blur-temperature", "0.02"], "--blur-temperature has no effect without --blur"),
    ],
)
def test_reranking_is_checked_before_images_are_embedded(
    data_root: Path, capsys, words: list[str], message: str
) -> None:
    assert use("evaluate", Path("nowhere.safetensors"), data_root, *words) == 2
    assert message in capsys.readouterr().err


def test_features_of_a_set_without_cameras_have_no_column_of_cameras(trained: Path, data_root: Path, tmp_path) -> None:
    weights = trained / "model.safetensors"
    for out in ("f.npz", "f.csv"):
        assert use("embed", weights, data_root, "--dataset", "vehicleid", "--out", tmp_path / out) == 0
    with np.load(tmp_path / "f.npz") as found:
        assert sorted(found.files) == ["features", "gallery", "identities", "paths", "query"]
    assert (tmp_path / "f.csv").read_text().startswith("path,identity,split,f0,")


def test_another_target_switches_to_the_recipe_across_domains(data_root: Path, tmp_path: Path) -> None:
    assert train(data_root, tmp_path, "--dataset", "msmt17", "--target", "market1501") == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["source_layout"], record["target_layout"]) == ("MSMT17_V1", "Market-1501")
    assert record["source_fingerprint"] != record["target_fingerprint"]
    assert record["queries"] == 10  # Market-1501's
    assert record["steps"] == 3  # one epoch: 250 of 350, rounded, of the profile's two


def test_the_training_set_as_its_own_target_is_no_other_domain(trained: Path, data_root: Path, tmp_path: Path) -> None:
    same = ("--options", "ratio=2", "genotype=GGEGAGGNGAEN", "--target", "market1501")
    assert train(data_root, tmp_path, *same) == 0
    assert metrics(tmp_path / "record.json") == metrics(trained / "record.json")


def test_training_starts_from_given_weights(trained: Path, data_root: Path, tmp_path: Path) -> None:
    weights = ("--weights", str(trained / "model.safetensors"))
    same = ("--options", "ratio=2", "genotype=GGEGAGGNGAEN", "--recipe", "epochs=0")
    assert train(data_root, tmp_path / "with", *same, *weights) == 0
    assert metrics(tmp_path / "with" / "record.json") == metrics(trained / "record.json")
    assert train(data_root, tmp_path / "without", *same) == 0
    assert metrics(tmp_path / "without" / "record.json") != metrics(trained / "record.json")


def test_released_weights_need_the_name_of_their_network(data_root: Path, tmp_path: Path, capsys) -> None:
    torch.manual_seed(0)
    weights, out = tmp_path / "resnet18.pth", tmp_path / "metrics.json"
    torch.save(torchvision.models.resnet18().state_dict(), weights)
    small = ("--height", 32, "--width", 16, "--out", out)
    assert use("evaluate", weights, data_root, *small) == 2
    message = capsys.readouterr().err
    assert f"{weights} does not say which network it holds; pass --model" in message
    assert all(name in message for name in CARDS)
    assert use("evaluate", weights, data_root, *small, "--model", "resnet18") == 0
    assert "torchvision ResNet layout" in capsys.readouterr().out
    assert 0 < metrics(out)["mAP"] < 1
    # The wrong name is told from the keys.
    assert use("evaluate", weights, data_root, *small, "--model", "osnet_x0_25") == 2
    assert "it looks like a checkpoint of ResNet" in capsys.readouterr().err


def test_bare_weights_of_ours_need_name_options_and_size(trained: Path, data_root: Path, tmp_path: Path) -> None:
    network = build_model(NETWORK, 8, ratio=2, genotype="GGEGAGGNGAEN")
    load_weights(network, trained / "model.safetensors")
    weights, out = tmp_path / "bare.pth", tmp_path / "metrics.json"
    torch.save({"state_dict": network.state_dict()}, weights)
    words = ("--model", NETWORK, "--options", "ratio=2", "genotype=GGEGAGGNGAEN", "--height", 32, "--width", 16)
    assert use("evaluate", weights, data_root, *words, "--out", out) == 0
    assert metrics(out) == metrics(trained / "record.json")


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", "msinett"], ["unknown network 'msinett'", "Did you mean 'msinet'?", "osnet", "resnet50"]),
        (["--options", "ration=3"], ["unknown option of msinet 'ration'", "Did you mean 'ratio'?", "genotype"]),
        (["--options", "genotype"], ["'genotype' is not NAME=VALUE"]),
        (["--dataset", "market"], ["unknown data set 'market'", "market1501, msmt17, vehicleid"]),
        (["--target", "veri"], ["unknown data set 'veri'", "veri776"]),
        (["--profile", "papr"], ["unknown profile 'papr'", "full, mini, paper, smoke"]),
        (["--recipe", "epoch=3"], ["unknown setting of the recipe 'epoch'", "Did you mean 'epochs'?", "weight_decay"]),
        (["--recipe", "lr=0"], ["recipe: lr must be above 0"]),
        (["--recipe", "pad=-1"], ["recipe: pad must be at least 0, got -1"]),
        (["--recipe", "identities=9"], ["a batch needs 9 identities, but the training set has 8"]),
        (["--device", "tpu"], ["device 'tpu' cannot be used", "use cpu, cuda, cuda:N or auto"]),
        (["--workers", "-1"], ["workers must be at least 0"]),
        (["--weights", "nowhere.pth"], ["weights file nowhere.pth does not exist"]),
        (["--data-root", "nowhere"], ["data root nowhere does not exist"]),
        (["--recipe", "lr=1e30", "warmup=0"], ["the loss became", "in epoch 1, step 2", "--no-resume"]),
    ],
)
def test_what_cannot_be_used_is_one_line_and_status_2(data_root, tmp_path: Path, capsys, words, expected) -> None:
    assert train(data_root, tmp_path / "run", *words) == 2
    printed, message = capsys.readouterr()
    assert printed == ""
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    for part in expected:
        assert part in message
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    assert not (tmp_path / "run" / "record.json").exists()


def test_changes_without_effect_are_named(data_root: Path, tmp_path: Path, capsys) -> None:
    assert train(data_root, tmp_path, "--recipe", "alignment_weight=5", "epochs=0") == 0
    assert "note: --recipe alignment_weight=5 has no effect with the other settings" in capsys.readouterr().err


def test_a_finished_run_is_not_trained_over(trained: Path, data_root: Path, capsys) -> None:
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    assert train(data_root, trained) == 2
    err = capsys.readouterr().err
    assert "holds a finished training; choose another --out (its schedule has ended; --weights" in err
    assert f"{trained}/model.safetensors starts from its weights), or --no-resume" in err
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before


def test_a_mistyped_second_try_keeps_the_record_of_the_first(data_root: Path, tmp_path: Path) -> None:
    assert train(data_root, tmp_path, "--recipe", "epochs=0") == 0
    first = (tmp_path / "record.json").read_text()
    for mistake in (
        ("--model", "msinett"),
        ("--weights", "nowhere.pth"),
        ("--recipe", "lr=-1"),
        ("--recipe", "identities=9"),
    ):
        assert train(data_root, tmp_path, "--no-resume", *mistake) == 2
        assert (tmp_path / "record.json").read_text() == first
    assert train(data_root, tmp_path, "--no-resume", "--recipe", "epochs=1") == 0
    assert json.loads((tmp_path / "record.json").read_text())["steps"] == 3


def test_a_file_in_the_place_of_the_folder_is_told(data_root: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "run").write_text("mine")
    assert train(data_root, tmp_path / "run") == 2
    assert capsys.readouterr().err.startswith("error: cannot write ")
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("words", [[], ["trian"], ["train"], ["train", "--nonsense"], ["data"], ["data", "chek", "."]])
def test_a_command_that_does_not_parse_is_status_2(words: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command(words)
    assert caught.value.code == 2
    assert "--help" in capsys.readouterr().err


# --- Interruption --------------------------------------------------------------------------------


def test_an_interrupted_command_is_status_130_and_goes_on(trained, data_root, tmp_path, capsys, monkeypatch) -> None:
    losses = supervised.losses
    same = ("--options", "ratio=2", "genotype=GGEGAGGNGAEN")
    with monkeypatch.context() as patch:
        patch.setattr(supervised, "losses", lambda *a: (os.kill(os.getpid(), signal.SIGINT), losses(*a))[1])
        assert train(data_root, tmp_path / "again", *same, "--no-resume") == 130
        assert "interrupted; the same command without --no-resume resumes" in capsys.readouterr().err
        assert train(data_root, tmp_path, *same) == 130
    message = capsys.readouterr().err
    assert "interrupted; the same command resumes" in message
    assert "Traceback" not in message
    assert (tmp_path / "checkpoint.pt").exists()
    assert train(data_root, tmp_path, *same) == 0
    assert metrics(tmp_path / "record.json") == metrics(trained / "record.json")


@pytest.mark.slow
def test_the_command_of_the_shell_stops_at_ctrl_c(data_root: Path, tmp_path: Path) -> None:
    """The only test that starts Python anew, with the restart for the allocator."""
    out = tmp_path / "run"
    words = [
        "train",
        "--data-root",
        data_root,
        "--out",
        out,
        "--model",
        NETWORK,
        "--profile",
        "smoke",
        *QUIET,
        "--recipe",
        "epochs=5000",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "msinet", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        deadline = time.monotonic() + 300
        while not (out / "log.txt").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(3)  # into the training
        process.send_signal(signal.SIGINT)
        printed, message = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert printed == ""
    assert message == "\ninterrupted; the same command resumes\n"
    assert (out / "checkpoint.pt").exists()
    assert sys.platform != "linux" or "'allocator': 'tuned'" in (out / "log.txt").read_text()


# --- Help ----------------------------------------------------------------------------------------


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What --help prints, without frames and line ends."""
    with pytest.raises(SystemExit) as caught:
        run_command([*words, "--help"])
    assert caught.value.code == 0
    return " ".join(re.sub("[│─╭╮╰╯]", " ", capsys.readouterr().out).split())


@pytest.mark.parametrize(("words", "commands"), [([], COMMANDS), (["data"], DATA_COMMANDS)], ids=["msinet", "data"])
def test_help_lists_the_commands(words: list[str], commands: dict[str, Any], capsys) -> None:
    text = help_of(words, capsys)
    assert f"{{{','.join(commands)}}}" in text


@pytest.mark.parametrize(
    ("words", "command"),
    [([name], command) for name, command in COMMANDS.items() if name != "data"]
    + [(["data", name], command) for name, command in DATA_COMMANDS.items()],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_help_shows_every_option_with_its_default(words: list[str], command: Any, capsys) -> None:
    text = help_of(words, capsys).split("-h, --help")[1]  # behind the line of usage
    known = {f.name: f for f in dataclasses.fields(command)}
    groups = {"selection": known["selection"].default_factory} if "selection" in known else {}
    if "run_options" in known:
        groups["run_options"] = known["run_options"].default_factory
    shown = [f for name, f in known.items() if name not in (*groups, "root", "images", "query", "source")]
    shown += [f for name, group in groups.items() if name in known for f in dataclasses.fields(group)]
    flags = {"weight": "lambda"}
    names = {f.name: flags.get(f.name, f.name).replace("_", "-") for f in shown}
    starts = {name: re.search(rf"--{flag}(?![\w-])", text).start() for name, flag in names.items()}
    for option in shown:
        own = text[starts[option.name] :].split("(default: ")[:2]
        if option.default is dataclasses.MISSING:
            assert "(required)" in own[0], option.name
        else:
            default = own[1].split(")")[0].strip().strip("'")
            assert default == ("" if option.default in ((), "") else str(option.default)), option.name


# --- Lists and recipes ---------------------------------------------------------------------------


def test_the_list_has_every_network_data_set_and_profile(capsys) -> None:
    assert run_command(["list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    named = {line[0]: line for line in lines if line}
    for card in [*CARDS.values(), *cards()]:
        assert named[card.name][1] == (card.label if isinstance(card, NetworkCard) else card.short).split()[0]
    assert "MSINet-SAM" in named["msinet"]
    for profile in PROFILES.values():
        assert " ".join(named[profile.name][1:]) == profile.summary


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--profile", "paper"],
            {
                "lr": ("0.065", "the paper, Sec. 4.2-4.3, or its released code"),
                "epochs": ("350", "the paper, Sec. 4.2-4.3, or its released code"),
            },
        ),
        (["--profile", "paper", "--dataset", "veri776"], {"width": ("256", "vehicles are square")}),
        (["--dataset", "msmt17", "--target", "market1501"], {"jitter": ("True", "across data sets, Sec. 4.3")}),
        (
            ["--dataset", "msmt17", "--target", "msmt17"],
            {"jitter": ("False", "the paper, Sec. 4.2-4.3, or its released code")},
        ),
        (["--recipe", "lr=0.5"], {"lr": ("0.5", "--recipe")}),
        (
            ["--search", "--profile", "paper"],
            {"lr": ("0.025", "the paper, Sec. 3.1 and 4.2, or its released code"), "overlap": ("0.4", "")},
        ),
        (["--pretraining", "--profile", "paper"], {"epochs": ("240", "CDNet's ImageNet recipe")}),
        (["--model", "vit_base", "--profile", "paper"], {"lr": ("0.008", "TransReID's baseline")}),
    ],
)
def test_a_recipe_is_printed_with_its_origins(words: list[str], expected: dict[str, tuple[str, str]], capsys) -> None:
    assert run_command(["recipe", *words]) == 0
    found = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    for name, (value, origin) in expected.items():
        assert found[name].split()[1] == value
        assert found[name].endswith(origin)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--search", "--pretraining"], "give one of --search and --pretraining"),
        (["--search", "--recipe-of", "authors"], "--recipe-of and --scratch are for trainings with labels"),
        (["--search", "--model", "osnet", "--target", "msmt17"], "--model, --target has no effect with --search"),
        (["--pretraining", "--dataset", "msmt17"], "--dataset has no effect with --pretraining"),
        (["--method", "gs", "--model", "osnet"], "--model has no effect with --method"),
        (["--data-root", "nowhere"], "data root nowhere does not exist"),
        (["--target", "veri"], "unknown data set 'veri'"),
        (["--model", "msinett"], "Did you mean 'msinet'?"),
        (["--recipe", "epoch=3"], "Did you mean 'epochs'?"),
    ],
)
def test_a_recipe_that_does_not_exist_is_refused(words: list[str], message: str, capsys) -> None:
    assert run_command(["recipe", *words]) == 2
    assert message in capsys.readouterr().err


# --- Start-up ------------------------------------------------------------------------------------

HEAVY = ("torch", "torchvision", "optuna", "fvcore", "matplotlib", "pandas", "scipy", "sklearn")


@pytest.mark.parametrize(
    "words",
    [
        "msinet --help",
        "msinet train --help",
        "msinet search --help",
        "msinet evaluate --help",
        "msinet export --help",
        "msinet data --help",
        "msinet data render --help",
        "msinet list",
        "msinet recipe --dataset msmt17 --target market1501",
        "bench --help",
        "bench latency --help",
    ],
)
def test_help_does_not_wait_for_heavy_libraries(words: str) -> None:
    """In a process of its own, as this one has imported everything. The restart for the allocator is left out."""
    module, *arguments = words.split()
    code = (
        f"import runpy, sys; sys.argv = {['x', *arguments]!r}\n"
        f"try: runpy.run_module({module!r}, run_name='__main__')\n"
        f"except SystemExit as end: assert not end.code, end.code\n"
        f"print('imported:', *(name for name in {HEAVY!r} if name in sys.modules))"
    )
    environment = os.environ | {"GLIBC_TUNABLES": "", "PYTHONPATH": str(Path(msinet.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"


@pytest.mark.skipif(sys.platform != "linux", reason="the restart is Linux's")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (TUNABLES, SPINS, None)),
        ({"GOMP_SPINCOUNT": "7"}, (TUNABLES, "7", None)),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, (TUNABLES, None, "PASSIVE")),
        ({"GLIBC_TUNABLES": ""}, ("", None, None)),
    ],
)
def test_a_process_restarts_with_what_the_libraries_read_at_its_start(
    given: dict[str, str], expected: tuple[str | None, ...]
) -> None:
    names = ("GLIBC_TUNABLES", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    program = "import os; from msinet.environment import tune_process; tune_process()\n"
    program += f"print([os.getenv(name) for name in {names}])"
    kept = {name: value for name, value in os.environ.items() if name not in names}
    found = subprocess.run(
        [sys.executable, "-c", program], env=kept | given, check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == str(list(expected))
