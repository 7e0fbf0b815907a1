"""Methods without labels: every shared piece, loss and memory update against loops over samples in float64."""

import copy
import json
import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import CPU, Exact, Stopped, at_steps, changed, stop, table
from torch import Tensor, nn

from msinet.cli import run_command
from msinet.data import Dataset, load_dataset
from msinet.data import test_batches as batches_in_order  # by its own name pytest would take it for a test
from msinet.errors import DataError, UserError, WeightsError
from msinet.models import build_model, load_weights, save_weights
from msinet.models.heads import Embedding, ReIDNet
from msinet.retrieval import jaccard_distances, reranking
from msinet.search.memory import Memory
from msinet.training.batches import Batches
from msinet.training.evaluation import embed
from msinet.training.options import RunOptions
from msinet.training.recipe import (
    ADAPTING,
    ALONE,
    OWN_SETTINGS,
    Method,
    Recipe,
    Unsupervised,
    canonical,
    from_canonical,
    settings,
)
from msinet.training.recipes import published, resolve_unsupervised
from msinet.training.run import Training
from msinet.unsupervised import image_folder, learn, load_start
from msinet.unsupervised.batches import Labelled
from msinet.unsupervised.clustercontrast import hardest
from msinet.unsupervised.idm import Bridged, CrossBatchMemory, Mixer, bridge, mixed_identity_loss
from msinet.unsupervised.losses import contrast, features_of, hardest_similarities, mean_similarities
from msinet.unsupervised.mmcl import multi_label_loss, positives
from msinet.unsupervised.mmt import closest, first_radius, soft_identity_loss, soft_triplet_loss
from msinet.unsupervised.norms import DomainNorm
from msinet.unsupervised.pseudo_labels import OUTLIER, check_clusters, cluster, distances, quality, singletons
from msinet.unsupervised.run import UDA, USL
from msinet.unsupervised.samplers import gallery_batches, group_batches
from msinet.unsupervised.spcl import dissimilarity, first_threshold, keep_reliable
from msinet.unsupervised.task import Conditions, Unlabelled
from msinet.unsupervised.teacher import average

METHODS = tuple(OWN_SETTINGS)
#: Method, and whether it adapts from a source.
WAYS = [*((method, False) for method in ALONE), *((method, True) for method in ADAPTING)]


def blobs(seed: int, count: int, identities: int, dim: int = 8, noise: float = 0.4) -> tuple[Tensor, np.ndarray]:
    """Features around a centre per identity, and the identities."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % identities
    rows = rng.standard_normal((identities, dim))[labels] + noise * rng.standard_normal((count, dim))
    return torch.from_numpy(rows.astype(np.float32)), labels


def double(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- Jaccard distances and clusters ---


def plain_jaccard(features: np.ndarray, k1: int, k2: int, lists: int, *, scaled: bool) -> np.ndarray:
    """The definition, image by image, in float64 with dense matrices."""
    rows = features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    squared = ((rows[:, None] - rows) ** 2).sum(2)
    d = squared / squared.max(1, keepdims=True) if scaled else squared
    order = np.argsort(squared, axis=1, kind="stable")[:, :lists]
    count = len(rows)

    def mutual(i: int, k: int) -> set[int]:
        return {int(j) for j in order[i][: k + 1] if i in order[j][: k + 1]}

    v = np.zeros((count, count))
    for i in range(count):
        found = mutual(i, k1)
        expanded = set(found)
        for candidate in found:
            theirs = mutual(candidate, int(np.around(k1 / 2)))
            if len(theirs & found) > 2 / 3 * len(theirs):
                expanded |= theirs
        for j in expanded:
            v[i, j] = math.exp(-d[i, j])
        v[i] /= v[i].sum()
    v = np.stack([v[order[i][:k2]].mean(0) for i in range(count)])
    least = np.minimum(v[:, None], v).sum(2)
    return (1 - least / (2 - least)).clip(0)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("k1", "k2", "lists"), [(8, 3, None), (8, 3, 8), (5, 1, None), (1, 1, 1)])
def test_jaccard_distances_are_those_of_the_definition(k1: int, k2: int, lists: int | None, scaled: bool) -> None:
    features, _ = blobs(0, 60, 7)
    found = jaccard_distances(features, k1=k1, k2=k2, radius=0.8, lists=lists, scaled=scaled)
    expected = plain_jaccard(features.numpy(), k1, k2, lists or k1 + 1, scaled=scaled)
    stored = np.zeros((60, 60), bool)
    stored[np.repeat(np.arange(60), np.diff(found.indptr)), found.indices] = True
    assert 1 / 60 <= stored.mean() < 0.9  # the image itself, if it is its only neighbour
    near = np.abs(expected - 0.8) < 1e-5  # where rounding decides
    assert (stored == (expected <= 0.8))[~near].all()
    np.testing.assert_allclose(found.toarray()[stored], expected[stored], atol=2e-6)
    for i in range(60):
        row = found.data[found.indptr[i] : found.indptr[i + 1]]
        assert (np.diff(row) >= 0).all()  # sorted, as scikit-learn wants it
        assert row[0] == 0
        assert i in found.indices[found.indptr[i] : found.indptr[i + 1]]


def test_chunks_and_threads_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    features, _ = blobs(1, 50, 6)
    expected = jaccard_distances(features, k1=6, k2=2)
    monkeypatch.setattr(reranking, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    found = jaccard_distances(features, k1=6, k2=2)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.data, expected.data, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"k1": 60}, "k1 = 60, 60 images; lower k1"), ({"k1": 3, "k2": 4}, "k2 = 4"), ({"radius": 1.0}, "radius")],
)
def test_too_few_images_and_wrong_numbers_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        jaccard_distances(blobs(0, 60, 7)[0], **{"k1": 8, "k2": 3, **changes})


def plain_dbscan(dense: np.ndarray, eps: float, least: int) -> np.ndarray:
    """DBSCAN written out: clusters grow from core points in the order of images."""
    close = dense <= eps
    core = close.sum(1) >= least
    labels, count = np.full(len(dense), OUTLIER), 0
    for start in np.flatnonzero(core):
        if labels[start] != OUTLIER:
            continue
        labels[start], todo = count, [start]
        while todo:
            for j in np.flatnonzero(close[todo.pop()]):
                if labels[j] == OUTLIER:
                    labels[j] = count
                    todo += [j] if core[j] else []
        count += 1
    return labels


def test_clusters_are_those_of_dbscan_on_dense_distances() -> None:
    for seed in range(2):
        features, _ = blobs(seed, 70, 8, noise=0.7)
        chosen = Unsupervised(k1=8, k2=3, eps=0.5)
        found = cluster(distances(features, chosen), chosen.eps, chosen.min_samples)
        dense = plain_jaccard(features.numpy(), 8, 3, 8, scaled=False)
        expected = plain_dbscan(dense, 0.5, 4)
        assert 0 < (expected == OUTLIER).sum() < 60
        # A border point may belong to either of two clusters; the order decides in both.
        np.testing.assert_array_equal(found, expected)


def test_quality_is_one_for_the_identities_and_zero_for_chance() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2, OUTLIER])
    assert quality(labels, np.array([5, 5, 9, 9, 2, 2, 7])) == pytest.approx((1, 1))
    hidden = np.arange(600) % 6
    shuffled = np.random.default_rng(0).permutation(hidden)
    assert abs(quality(shuffled, hidden).ari) < 0.02
    # By hand: pairs together in both 1, in clusters 2, in identities 4, of 6 in all; outliers are alone.
    found = quality(np.array([0, 0, OUTLIER, OUTLIER]), np.array([0, 0, 0, 1])).ari
    together, ours, theirs, every = 1, 1, 3, 6
    chance = ours * theirs / every
    assert found == pytest.approx((together - chance) / ((ours + theirs) / 2 - chance))


@pytest.mark.parametrize(
    ("labels", "keeps", "message"),
    [
        ([OUTLIER] * 5, False, "no cluster among 5 images .5 outliers; eps 0.6, min_samples 4.*raise eps"),
        ([0] * 5, False, "a single cluster among 5 images .0 outliers.*gs needs at least two; lower eps"),
        ([0] * 5, True, "a single cluster"),
        ([0] * 4 + [OUTLIER], False, "a single cluster"),
    ],
)
def test_nothing_to_tell_apart_is_an_error(labels: list[int], keeps: bool, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_clusters(np.array(labels), Unsupervised(), 0.6, keeps_outliers=keeps)


@pytest.mark.parametrize(("label", "remedy"), [(OUTLIER, "raise closest, lower min_samples"), (0, "lower closest or")])
def test_the_remedy_is_a_setting_of_the_method(label: int, remedy: str) -> None:
    with pytest.raises(DataError, match=f"eps 0.25, .* mmt needs at least two; {remedy}"):
        check_clusters(np.full(5, label), Unsupervised("mmt"), 0.25, keeps_outliers=False)


def test_outliers_alone_are_enough_for_methods_that_keep_them() -> None:
    check_clusters(np.full(5, OUTLIER), Unsupervised(), 0.6, keeps_outliers=True)
    assert singletons(np.array([OUTLIER, 0, 0, OUTLIER])).tolist() == [1, 0, 0, 2]


# --- Samplers ---

LABELS = np.array([0] * 6 + [1] * 3 + [2] * 2 + [3] + [OUTLIER] * 4)
CAMERAS = np.array([0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2, 0, 0, 1, 2, 3])


def test_gallery_batches_hold_an_anchor_and_images_of_other_cameras() -> None:
    anchors = Counter[int]()
    for epoch in range(100):
        (batch,) = gallery_batches(LABELS, CAMERAS, (2, 3), seed=3, epoch=epoch)  # of a pass of ten images
        assert len(batch) == 6
        runs: list[list[int]] = []
        for i in batch:
            if not runs or LABELS[runs[-1][0]] != LABELS[i] or len(runs[-1]) == 3:
                runs.append([])
            runs[-1].append(i)
        for run in runs[:-1]:  # the last may be cut
            label = LABELS[run[0]]
            assert label != OUTLIER
            assert len(run) == (1 if label == 3 else 3)
            anchors[run[0]] += 1
            if label in (0, 2):  # has other cameras
                assert all(CAMERAS[i] != CAMERAS[run[0]] for i in run[1:])
            if label == 1:  # has one camera only
                assert run[0] not in run[1:]
    assert set(anchors) == set(range(12))


def test_a_pass_takes_every_cluster_once() -> None:
    labels = np.repeat(np.arange(20), 5)
    batches = gallery_batches(labels, np.arange(100) % 7, (4, 4), seed=0, epoch=0)
    assert [len(batch) for batch in batches] == [16] * 5
    assert Counter(labels[i] for batch in batches for i in batch) == dict.fromkeys(range(20), 4)
    # Fewer than K other images: with replacement. As many as K: without.
    small = gallery_batches(np.repeat([0, 1], 3), np.zeros(6, int), (2, 4), seed=0, epoch=0)
    assert all(len(set(batch[4 * i : 4 * i + 4])) <= 3 for batch in small for i in (0, 1))
    large = gallery_batches(np.repeat([0, 1], 5), np.zeros(10, int), (2, 4), seed=0, epoch=0)
    assert all(len(set(batch[4 * i : 4 * i + 4])) == 4 for batch in large for i in (0, 1))


def test_batches_are_a_function_of_seed_epoch_and_labels() -> None:
    for draw in (
        lambda **more: gallery_batches(LABELS, CAMERAS, (2, 2), steps=7, **more),
        lambda **more: group_batches(LABELS, 3, 4, steps=7, **more),
    ):
        assert draw(seed=1, epoch=2) == draw(seed=1, epoch=2) != draw(seed=1, epoch=3)
        assert len(draw(seed=1, epoch=2)) == 7


def test_groups_follow_each_other_and_outliers_come_last() -> None:
    labels = np.concatenate([np.repeat(np.arange(4), 6), np.full(8, OUTLIER)])
    batches = group_batches(labels, 3, 3, seed=5, epoch=1)
    assert len(batches) == 10  # 32 images
    inside = [batch for batch in batches if labels[batch[0]] != OUTLIER]
    assert all(len({labels[i] for i in batch}) == 1 for batch in inside)  # a group of three is a batch
    assert sorted(i for batch in inside for i in batch) == list(range(24))
    # In the list of a pass they come last; batches are then shuffled.
    assert [labels[batch[0]] == OUTLIER for batch in batches] != sorted(labels[b[0]] == OUTLIER for b in batches)
    whole = group_batches(labels, 100, 6, seed=5, epoch=1)
    assert sum(len({labels[i] for i in batch}) == 1 for batch in whole) == 5
    mixed = group_batches(labels, 0, 16, seed=5, epoch=1)
    assert all(len({labels[i] for i in batch}) > 2 for batch in mixed)


def test_few_images_fill_a_batch_from_several_passes() -> None:
    assert [len(batch) for batch in group_batches(np.zeros(3, int), 2, 8, seed=0, epoch=0, steps=2)] == [8, 8]
    assert [len(b) for b in gallery_batches(np.array([0, 1]), np.zeros(2, int), (4, 2), seed=0, epoch=0)] == [8]


# --- Losses and memories ---


def memory_and_batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Memory (9, 5) with labels of 4 clusters, features (6, 5) and their labels."""
    rows = F.normalize(double(9, 5, seed=1))
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3])
    features = F.normalize(double(6, 5, seed=2)).requires_grad_(True)
    return rows, labels, features, torch.tensor([0, 3, 1, 1, 2, 0])


def same_gradients(ours: Tensor, plain: Tensor, inputs: Tensor) -> None:
    assert ours.item() == pytest.approx(plain.item(), rel=1e-12)
    mine, theirs = (torch.autograd.grad(one, inputs, retain_graph=True)[0] for one in (ours, plain))
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    assert mine.abs().max() > 1e-3


def test_contrast_with_cluster_means_is_the_loop_over_samples() -> None:
    rows, labels, features, own = memory_and_batch()
    total = torch.zeros((), dtype=torch.float64)
    for feature, y in zip(features, own, strict=True):
        scores = []
        for k in range(4):
            members = [feature @ rows[i] for i in range(9) if labels[i] == k]
            scores.append((sum(members) / len(members) / 0.05).exp())
        total = total - (scores[y] / sum(scores) + 1e-6).log()
    same_gradients(contrast(mean_similarities(features, rows, labels, 4) / 0.05, own), total / 6, features)


def test_hybrid_contrast_is_the_loop_over_samples() -> None:
    rows, labels, features, own = memory_and_batch()
    total = torch.zeros((), dtype=torch.float64)
    for feature, y in zip(features, own, strict=True):
        scores = []
        for k in range(4):
            members = torch.stack([feature @ rows[i] for i in range(9) if labels[i] == k])
            scores.append(((members.min() if k == y else members.max()) / 0.05).exp())
        total = total - (scores[y] / sum(scores) + 1e-6).log()
    ours = hardest_similarities(features @ rows.T, labels, own, 4) / 0.05
    same_gradients(contrast(ours, own), total / 6, features)


def test_rows_of_a_memory_are_updated_sample_by_sample() -> None:
    rows, _, features, _ = memory_and_batch()
    positions = torch.tensor([4, 0, 4, 8, 4, 0])
    memory = Memory(9, 5, 0.05, 0.2).double()
    memory.centres.copy_(rows)
    memory.update(features, positions)
    expected = rows.clone()
    for feature, place in zip(features.detach(), positions.tolist(), strict=True):
        mixed = 0.2 * expected[place] + 0.8 * feature
        expected[place] = mixed / mixed.norm()
    torch.testing.assert_close(memory.centres, expected, rtol=1e-12, atol=1e-14)


def test_the_least_similar_image_of_each_cluster_is_chosen() -> None:
    rows, _, features, own = memory_and_batch()
    logits = features.detach() @ rows[:4].T
    for y in own.unique().tolist():
        similarities = {i: float(logits[i, y]) for i in range(6) if own[i] == y}
        assert min(similarities, key=lambda i: similarities[i]) in hardest(logits, own).tolist()
    assert len(hardest(logits, own)) == 4
    assert hardest(torch.zeros(3, 2), torch.tensor([1, 1, 0])).tolist() == [2, 0]  # of equals the first


def test_the_teacher_is_the_moving_average_of_parameters_alone() -> None:
    student, teacher = nn.BatchNorm1d(3).double(), nn.BatchNorm1d(3).double()
    with torch.no_grad():
        student.weight.copy_(double(3, seed=4))
        student.running_mean.fill_(7)
    before, theirs = teacher.weight.tolist(), student.weight.tolist()
    average(teacher, student, 0.75)
    for mine, was, other in zip(teacher.weight.tolist(), before, theirs, strict=True):
        assert mine == pytest.approx(0.75 * was + 0.25 * other)
    assert teacher.running_mean.tolist() == [0, 0, 0]


# --- SpCL ---


def test_reliability_is_that_of_sets_of_images() -> None:
    rng = np.random.default_rng(0)
    labels, tight, loose = (rng.integers(-1, 5, 40) for _ in range(3))
    labels[:5], tight[:5], loose[:5] = range(5), range(5), range(5)

    def members(of: np.ndarray, i: int) -> set[int]:
        return {i} if of[i] == OUTLIER else set(np.flatnonzero(of == of[i]).tolist())

    def plain(others: np.ndarray) -> list[float]:
        pairs = [(members(labels, i), members(others, i)) for i in range(40)]
        return [1 - len(a & b) / len(a | b) for a, b in pairs]

    independence, compactness = dissimilarity(labels, loose), dissimilarity(labels, tight)
    np.testing.assert_allclose(independence, plain(loose), atol=1e-15)
    np.testing.assert_allclose(compactness, plain(tight), atol=1e-15)
    least = [min(independence[i] for i in np.flatnonzero(labels == k)) for k in range(5)]
    sizes = [int((labels == k).sum()) for k in range(5)]
    several = sorted(value for value, size in zip(least, sizes, strict=True) if size > 1)
    assert first_threshold(labels, independence, 0.5) == several[min(len(several) - 1, round(0.5 * len(several)))]
    threshold = sorted(least)[2]
    kept = keep_reliable(labels, independence, compactness, threshold)
    for i in range(40):
        y = labels[i]
        core = y != OUTLIER and compactness[i] <= min(compactness[j] for j in np.flatnonzero(labels == y))
        assert (kept[i] != OUTLIER) == (core and least[y] <= threshold)
    assert set(kept[kept != OUTLIER]) == set(range(kept.max() + 1))
    same = (kept[:, None] == kept)[np.ix_(kept != OUTLIER, kept != OUTLIER)]
    assert (same == (labels[:, None] == labels)[np.ix_(kept != OUTLIER, kept != OUTLIER)]).all()
    assert np.isnan(first_threshold(np.full(4, OUTLIER), np.zeros(4), 0.9))


# --- IDM ---


def test_the_mixer_is_its_formula_and_has_the_published_parameters() -> None:
    torch.manual_seed(0)
    mixer = Mixer(4).double().train()
    maps = double(6, 4, 3, 2, seed=5).requires_grad_(True)
    result = mixer(maps)
    torch.testing.assert_close(result[:6], maps)
    for i in range(3):
        hidden = sum(mixer.describe(torch.cat([maps[j].mean((1, 2)), maps[j].amax((1, 2))])) for j in (i, 3 + i))
        share = mixer.weigh(mixer.reduce(hidden)).softmax(0)
        torch.testing.assert_close(mixer.weights[i], share)
        torch.testing.assert_close(result[6 + i], share[0] * maps[i] + share[1] * maps[3 + i])
    assert torch.autograd.grad(mixer.weights[:, 0].sum(), maps, allow_unused=True) == (None,)  # detached maps
    assert mixer.eval()(maps) is maps
    assert sum(p.numel() for p in Mixer(64).parameters()) == 10_402


def test_a_domain_norm_keeps_statistics_of_each_domain() -> None:
    norm = DomainNorm(nn.BatchNorm2d(2).double(), 3).train()
    maps = double(6, 2, 4, 4, seed=6)
    result = norm(maps)
    for k in range(3):
        part = maps[2 * k : 2 * k + 2]
        mean, std = part.mean((0, 2, 3), keepdim=True), part.var((0, 2, 3), keepdim=True, correction=0).add(1e-5).sqrt()
        torch.testing.assert_close(result[2 * k : 2 * k + 2], (part - mean) / std)
        torch.testing.assert_close(norm.norms[k].running_mean, 0.1 * mean.flatten())
    torch.testing.assert_close(norm.eval()(maps), norm.norms[1](maps))


@pytest.mark.parametrize("name", ["msinet_x0_25", "resnet18_x0_25"])
@pytest.mark.parametrize("neck", ["bn", "transfer"])
def test_a_bridged_network_starts_as_the_network_and_gives_it_back(name: str, neck: str) -> None:
    torch.manual_seed(0)
    network = build_model(name, 5, neck=neck).eval()
    bridged = Bridged(network, 11).eval()
    images = torch.randn(4, 3, 32, 16)
    torch.testing.assert_close(bridged.network(images), network(images))
    bridged.train()
    pooled, feature = bridged.network.embed(images)
    assert len(pooled) == len(feature) == 6
    assert bridged.classifier.shape == (11, feature.shape[1])
    back = bridged.target_network()
    assert back.state_dict().keys() == network.state_dict().keys()
    torch.testing.assert_close(back.eval()(images), bridged.eval().network(images))


def test_a_network_without_a_stem_cannot_be_bridged() -> None:
    with pytest.raises(UserError, match="convolutional stem"):
        Bridged(build_model("deit_small_x0_25", 3, image=(32, 16)), 5)


def test_losses_of_mixed_images_are_loops_over_samples() -> None:
    logits, labels = double(3, 4, seed=7).requires_grad_(True), torch.tensor([0, 1, 1, 2, 3, 2])
    share = torch.tensor([0.2, 0.7, 0.5], dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(3):
        target = torch.zeros(4, dtype=torch.float64)
        target[labels[i]] += share[i]
        target[labels[3 + i]] += 1 - share[i]
        target = 0.9 * target + 0.1 / 4
        total = total - sum(target[k] * (logits[i, k].exp() / logits[i].exp().sum()).log() for k in range(4))
    same_gradients(mixed_identity_loss(logits, labels, share, 0.1), total / 3, logits)
    pooled = double(6, 5, seed=8).requires_grad_(True)
    mixtures = torch.tensor([[0.3, 0.7], [0.6, 0.4]], dtype=torch.float64)
    plain = sum(
        mixtures[i, k] * (pooled[4 + i] - pooled[2 * k + i]).square().sum().sqrt() for i in range(2) for k in range(2)
    )
    same_gradients(bridge(pooled, mixtures), plain / 2, pooled)


def test_the_memory_of_earlier_batches_is_a_queue_with_current_labels() -> None:
    memory = CrossBatchMemory(7, 4, CPU)
    memory.features = memory.features.double()
    batches = [double(3, 4, seed=seed) for seed in range(5)]
    keys = [torch.tensor([seed % 2, 2 + seed, 5]) for seed in range(5)]  # two identities of the source, five images
    anchors, own = double(4, 4, seed=9).requires_grad_(True), torch.tensor([0, 1, 2, 2])
    for rows, places in zip(batches, keys, strict=True):
        memory.add(rows, places)
    kept, of_kept = torch.cat(batches)[-7:], torch.cat(keys)[-7:].tolist()
    assert {tuple(row.tolist()) for row in memory.features} == {tuple(row.tolist()) for row in kept}
    for of_keys in ([0, 1, 3, 3, 3, 2, OUTLIER], [0, 1, 3, 3, 3, OUTLIER, 2]):  # of two epochs
        labels = [of_keys[key] for key in of_kept]
        assert {*labels} == {0, 1, 2, OUTLIER}
        total = torch.zeros((), dtype=torch.float64)
        for anchor, y in zip(anchors, own.tolist(), strict=True):
            away = [(anchor - row).square().sum().sqrt() for row in kept]
            positive = max(d for d, label in zip(away, labels, strict=True) if label == y)
            negative = min(d for d, label in zip(away, labels, strict=True) if label not in (y, OUTLIER))
            total = total + (positive - negative + 0.3).clamp(min=0)
        same_gradients(memory.triplet(anchors, own, torch.tensor(of_keys), 0.3), total / 4, anchors)
    other = CrossBatchMemory(7, 4, CPU)
    other.features = other.features.double()
    other.load_state_dict(memory.state_dict())
    part = CrossBatchMemory(7, 4, CPU)
    part.add(batches[0].float(), keys[0])
    saved = part.state_dict()
    assert saved["features"].untyped_storage().nbytes() == 3 * 4 * 4  # a view would save all seven rows
    assert saved["keys"].untyped_storage().nbytes() == 3 * 8
    memory.add(batches[0], keys[0])
    other.add(batches[0], keys[0])
    assert torch.equal(memory.features, other.features)
    assert torch.equal(memory.keys, other.keys)
    small = CrossBatchMemory(2, 4, CPU)
    small.add(batches[0].float(), torch.arange(3))  # more rows than fit: the last ones stay
    assert sorted(small.keys.tolist()) == [1, 2]
    assert torch.equal(small.features[small.keys.argsort()], batches[0][1:].float())
    alone = CrossBatchMemory(7, 4, CPU)
    alone.features = alone.features.double()
    alone.add(anchors[:1], own[:1])
    assert float(alone.triplet(anchors[:1], own[:1], torch.arange(7), 0.3).detach()) == 0  # no negative


# --- MMCL ---


def test_labels_are_similar_rows_that_have_the_image_among_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msinet.unsupervised.mmcl.BLOCK", 3)
    rows, _ = blobs(3, 60, 6, dim=6, noise=0.9)
    memory = F.normalize(rows.double())
    images = torch.arange(0, 60, 4)
    found = positives(memory, images, 0.5)
    cosine = (memory @ memory.T).numpy()
    sizes = []
    for row, i in zip(found, images.tolist(), strict=True):
        order = [i, *(int(j) for j in np.argsort(-cosine[i], kind="stable") if j != i)]
        k = 1 + sum(cosine[i, j] > 0.5 for j in order[1:])
        expected = {i}
        for j in order[1:k]:
            nearest = {int(g) for g in np.argsort(-cosine[j], kind="stable")[:k]}
            if i not in nearest:
                break
            expected.add(j)
        assert set(row.nonzero()[:, 0].tolist()) == expected
        sizes.append((len(expected), k))
    assert any(size < k for size, k in sizes)
    assert max(size for size, _ in sizes) > 4  # more than a block


def test_the_multi_label_loss_is_the_loop_over_samples() -> None:
    features, memory = double(4, 5, seed=3).requires_grad_(True), F.normalize(double(30, 5, seed=4))
    cosines = F.normalize(features) @ memory.T
    positive = torch.zeros(4, 30, dtype=torch.bool)
    for i, chosen in enumerate(([0], [1, 2, 3], [4, 9], list(range(29)))):
        positive[i, chosen] = True
    total = torch.zeros((), dtype=torch.float64)
    for row, own in zip(cosines, positive, strict=True):
        near = [(1 - row[j]) ** 2 for j in range(30) if own[j]]
        far = sorted((row[j] for j in range(30) if not own[j]), key=lambda one: float(one.detach()), reverse=True)
        far = far[: max(1, int(0.2 * len(far)))]
        total = total + 5 * sum(near) / len(near) + sum((1 + s) ** 2 for s in far) / len(far)
    same_gradients(multi_label_loss(cosines, positive, 5.0, 0.2), total / 4, features)
    everything = torch.ones(1, 3, dtype=torch.bool)  # no negative
    assert float(multi_label_loss(torch.full((1, 3), 0.5), everything, 2.0, 0.2)) == pytest.approx(0.5)


def test_mmcl_starts_with_single_labels_and_a_momentum_of_zero() -> None:
    task = make("mmcl", epochs=24, similarity=0.0)
    task.initialize()
    seen = {}
    for epoch in (0, 1, 2):
        task.begin_epoch(epoch, 0)
        assert task.rows.momentum == pytest.approx(0.5 * epoch / 24)
        seen[epoch] = float(task.step(epoch, 0)["positives"])
        task.batches._stream = None
    assert seen[0] == seen[1] == 1 < seen[2]  # a twelfth of 24 epochs


# --- MMT ---


def test_mutual_losses_are_loops_over_samples() -> None:
    logits, teacher = double(5, 4, seed=1).requires_grad_(True), double(5, 4, seed=2)
    total = sum(
        -(teacher[i].exp() / teacher[i].exp().sum())[k] * (logits[i, k] - logits[i].exp().sum().log())
        for i in range(5)
        for k in range(4)
    )
    same_gradients(soft_identity_loss(logits, teacher), total / 5, logits)
    pooled, other = double(6, 3, seed=3).requires_grad_(True), double(6, 7, seed=4)
    labels = [0, 0, 1, 1, 1, 0]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(6):
        away = {j: (pooled[i] - pooled[j]).square().sum().sqrt() for j in range(6) if j != i}
        positive = max((j for j in away if labels[j] == labels[i]), key=lambda j: float(away[j].detach()))
        negative = min((j for j in away if labels[j] != labels[i]), key=lambda j: float(away[j].detach()))
        ours = torch.stack([away[positive], away[negative]])
        theirs = torch.stack([(other[i] - other[j]).norm() for j in (positive, negative)])
        total = total - (theirs.softmax(0) * ours.log_softmax(0)).sum()
    same_gradients(soft_triplet_loss(pooled, other, torch.tensor(labels)), total / 6, pooled)
    alone = soft_triplet_loss(double(3, 2, seed=5), double(3, 2, seed=6), torch.zeros(3))
    assert float(alone) == 0  # no negative


def test_the_radius_is_the_mean_of_the_closest_pairs() -> None:
    features, _ = blobs(0, 50, 6)
    within = jaccard_distances(features, k1=8, k2=3, radius=0.99)
    dense = plain_jaccard(features.numpy(), 8, 3, 9, scaled=False)
    upper = np.sort(dense[np.triu_indices(50, 1)])
    upper = upper[upper > 1e-6]  # not of equal encodings
    count = round(0.05 * 50 * 49 / 2)
    assert closest(within, 0.05) == pytest.approx(float(upper[:count].mean()), abs=1e-6)
    many = closest(within, 1.0)  # those that are not stored count as 1
    assert many == pytest.approx(float(np.where(upper <= 0.99, upper, 1).mean()), abs=1e-2)
    assert many < 1


def test_the_radius_does_not_depend_on_a_setting_of_spcl() -> None:
    within = jaccard_distances(blobs(0, 50, 25)[0], k1=3, k2=1, radius=0.99)
    found = {first_radius(within, Unsupervised("mmt", closest=1.0, eps_gap=gap)) for gap in (0.0, 0.02, 0.3)}
    assert found == {0.99 - 0.02}  # the largest one, below the mean of all pairs
    assert first_radius(within, Unsupervised("mmt", closest=0.05)) == closest(within, 0.05)


def test_boxes_are_erased_only_while_mmt_adapts(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make("mmt", epochs=2, min_samples=1, closest=0.05, erase=1.0, flip=0.0, pad=0)
    unchanged = {image.numpy().tobytes() for part in (task.source, task.images) for image in normalized(part.pixels)}
    seen: list[bool] = []
    read = Batches.next

    def noting(batches: Batches) -> tuple[Tensor, Tensor]:
        images, labels = read(batches)
        seen.extend(image.contiguous().numpy().tobytes() in unchanged for image in images)
        return images, labels

    monkeypatch.setattr(Batches, "next", noting)
    task.initialize()
    for epoch, whole in ((0, True), (1, False)):
        seen.clear()
        task.begin_epoch(epoch, 0)
        task.step(epoch, 0)
        assert seen == [whole] * (3 - epoch) * 8  # two batches of the source and one of the target, or two views


def test_mmt_learns_the_source_and_then_from_the_other_teacher() -> None:
    task = make("mmt", epochs=2, min_samples=1, closest=0.05)
    task.initialize()
    assert "clusters" not in task.begin_epoch(0, 0)
    assert task.trained is task.couple.learners[0].network
    before = [learner.classifier.clone() for learner in task.couple.learners]
    task.step(0, 0)
    changes = [(one.classifier - was) for one, was in zip(task.couple.learners, before, strict=True)]
    assert not torch.equal(*changes)  # each has its own batches
    row = task.begin_epoch(1, 0)
    assert row["clusters"] > 1
    assert task.trained is task.couple.teachers[0].network
    assert task.radius != 0.6
    resumed = make("mmt", epochs=2, min_samples=1, closest=0.05)
    resumed.load_state_dict(task.state_dict())
    assert resumed.radius == task.radius
    first, second = task.couple.learners
    torch.testing.assert_close(first.classifier[: task.count], second.classifier[: task.count])
    assert all(
        torch.equal(*pair) for pair in zip(first.parameters(), task.couple.teachers[0].parameters(), strict=True)
    )
    values = {name: float(value) for name, value in task.step(1, 0).items()}
    total = 0.5 * (values["hard_identity"] + values["soft_identity"])
    total += 0.2 * values["hard_triplet"] + 0.8 * values["soft_triplet"]
    assert values["loss"] == pytest.approx(total, rel=1e-5)
    # The first step copies the learners; then the average moves half way.
    for mine, theirs in zip(task.couple.teachers[0].parameters(), first.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    was = first.classifier.clone()
    task.step(1, 1)
    torch.testing.assert_close(task.couple.teachers[0].classifier, 0.5 * was + 0.5 * first.classifier)


# --- Whole steps ---


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 16, 3), np.uint8)


def small(method: Method, **changes: Any) -> Recipe:
    """Two epochs of two steps, which any clusters are enough for."""
    recipe = resolve_unsupervised("smoke", method, "market1501").recipe
    return changed(recipe, steps_per_epoch=2, **{"k1": 4, "k2": 2, "min_samples": 2, "eps": 0.7, **changes})


def normalized(images: np.ndarray) -> Tensor:
    return torch.cat(list(batches_in_order(images, 100)))


def unlabelled(count: int = 24) -> Unlabelled:
    return Unlabelled(pixels(count), np.arange(count) % 3, np.arange(count) // 4)


def make(method: Method, *, across: bool | None = None, **changes: Any) -> Any:
    torch.manual_seed(0)
    network = build_model("msinet_x0_25", 3, neck="bn")
    conditions = Conditions(small(method, **changes), 1, CPU)
    if method not in ALONE if across is None else across:
        source = Labelled(pixels(20, 1), np.arange(20) // 4, np.zeros(20))
        return UDA[method](network, unlabelled(), conditions, source)
    return USL[method](network, unlabelled(), conditions)


@pytest.fixture
def certain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters of random images: four of five and four outliers, whatever the features."""
    labels = np.array([0, 1, 2, 3] * 5 + [OUTLIER] * 4)
    for module in ("task", "spcl", "mmt"):
        monkeypatch.setattr(f"msinet.unsupervised.{module}.cluster", lambda *_: labels.copy())


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images in float64, for the tasks of `begun`; extracted features are rounded to float32."""
    read = Batches.next

    def doubled(batches: Batches) -> tuple[Tensor, Tensor]:
        images, labels = read(batches)
        return images.double(), labels

    monkeypatch.setattr(Batches, "next", doubled)
    monkeypatch.setattr("msinet.unsupervised.task.embed", lambda network, *a, **k: embed(Exact(network), *a, **k))


def begun(method: Method, *, across: bool | None = None, epochs: tuple[int, ...] = (0,), **changes: Any) -> Any:
    """A task that has begun some epochs, in float64."""
    task = make(method, across=across, **changes)
    task.initialize()
    for epoch in epochs:
        task.begin_epoch(epoch, 0)
    task.network.double()
    if task.memory is not None:
        task.memory.double()
    if method == "idm":
        task.past.features = task.past.features.double()
    return task


def same_step(task: Any, plain: Any, loss: Tensor, total: Tensor) -> None:
    """Compare the loss of a step of `task`, and the gradients that it left, with a loss from the network of `plain`."""
    assert loss.item() == pytest.approx(total.item(), rel=1e-9)
    trained = {name: p for name, p in plain.network.named_parameters() if p.requires_grad}
    expected = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    ours = dict(task.network.named_parameters())
    assert sum(gradient is not None for gradient in expected) > 10
    for name, gradient in zip(trained, expected, strict=True):
        if gradient is None:
            assert ours[name].grad is None
        else:
            torch.testing.assert_close(ours[name].grad, gradient, rtol=1e-6, atol=1e-9, msg=name)


def same_rows(ours: Tensor, plain: Tensor) -> None:
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)


def plain_distillation(student: Tensor, teacher: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    """Squared differences of the probabilities of clusters with several images, sample by sample, over the clusters."""
    several = [k for k in labels.unique().tolist() if (labels == k).sum() > 1]
    total = torch.zeros((), dtype=torch.float64)
    for pair in zip(student, teacher, strict=True):
        scores = [
            [sum(one @ row for row in rows[labels == k]) / int((labels == k).sum()) / 0.05 for k in several]
            for one in pair
        ]
        p, q = ([score.exp() / sum(s.exp() for s in each) for score in each] for each in scores)
        total = total + sum((a - b) ** 2 for a, b in zip(p, q, strict=True))
    return total / len(several)


def plain_identity(logits: Tensor, label: int) -> Tensor:
    """Cross-entropy of a sample, smoothed by 0.1."""
    logs = [logit - logits.exp().sum().log() for logit in logits]
    return -(0.9 * logs[label] + 0.1 * sum(logs) / len(logs))


def away(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum().sqrt()


def hardest_pair(i: int, rows: Tensor, labels: list[int]) -> tuple[int, int]:
    """The farthest row with the label of row i, and the nearest one with another label."""
    rows = rows.detach()
    distances = {j: float(away(rows[i], rows[j])) for j in range(len(rows)) if j != i}
    positive = max((j for j in distances if labels[j] == labels[i]), key=distances.__getitem__)
    return positive, min((j for j in distances if labels[j] != labels[i]), key=distances.__getitem__)


@pytest.mark.usefixtures("certain", "exact")
@pytest.mark.parametrize("method", ["gs", "spcl", "hdcrl"])
def test_a_step_with_instances_is_the_method_written_out(method: Method) -> None:
    task, plain = begun(method), begun(method)
    rows, labels = plain.rows.centres.clone(), plain.targets
    values = task.step(0, 0)
    images, positions = plain.batches.next()
    network = plain.pair.student if method == "hdcrl" else plain.network
    features = F.normalize(network.embed(images).feature)
    similarities = features @ rows.T
    total = 0
    for i, place in enumerate(positions):
        scores = []
        for k in range(8):  # four clusters and four outliers
            members = similarities[i][labels == k]
            own = members.min() if k == labels[place] else members.max()
            scores.append((own if method == "hdcrl" else members.mean()) / 0.05)
        total = total - (torch.stack(scores).softmax(0)[labels[place]] + 1e-6).log()
    total = total / len(positions)
    if method == "hdcrl":
        with torch.no_grad():
            theirs = F.normalize(plain.pair.teacher.embed(plain.second_view.next()[0]).feature)
        distilled = plain_distillation(features, theirs, rows, labels)
        assert values["distillation"].item() == pytest.approx(distilled.item(), rel=1e-9)
        total = total + distilled
        networks = (task.pair.teacher, plain.pair.teacher, task.pair.student)
        for mine, was, student in zip(*(network.parameters() for network in networks), strict=True):
            torch.testing.assert_close(mine, 0.999 * was + 0.001 * student)
    same_step(task, plain, values["loss"], total)
    for feature, place in zip(features.detach(), positions, strict=True):
        rows[place] = F.normalize(0.2 * rows[place] + 0.8 * feature, dim=0)
    same_rows(task.rows.centres, rows)


@pytest.mark.usefixtures("certain", "exact")
def test_a_step_of_spcl_across_sets_is_the_method_written_out() -> None:
    task, plain = begun("spcl", across=True), begun("spcl", across=True)
    rows = plain.rows.centres.clone()
    assert len(rows) == 5 + 24
    unit = plain.extract(plain.source.pixels).double()
    for k in range(5):
        expected = F.normalize(unit[plain.source.labels == k].mean(0), dim=0)
        torch.testing.assert_close(rows[k], expected, rtol=1e-4, atol=1e-5)
    labels = torch.cat([torch.arange(5), plain.targets + 5])
    values = task.step(0, 0)
    (source, own), (target, positions) = plain.of_source.next(), plain.batches.next()
    features = F.normalize(plain.network.embed(torch.cat([source, target])).feature)
    wanted = torch.cat([own, plain.targets[positions] + 5])
    losses = []
    for feature, y in zip(features, wanted, strict=True):
        scores = torch.stack([(rows[labels == k] @ feature).mean() / 0.05 for k in range(5 + 8)])
        losses.append(-(scores.softmax(0)[y] + 1e-6).log())
    half = len(losses) // 2
    same_step(task, plain, values["loss"], sum(losses[:half]) / half + sum(losses[half:]) / half)
    for feature, place in zip(features.detach(), [*own.tolist(), *(positions + 5).tolist()], strict=True):
        rows[place] = F.normalize(0.2 * rows[place] + 0.8 * feature, dim=0)
    same_rows(task.rows.centres, rows)


@pytest.mark.usefixtures("certain", "exact")
@pytest.mark.parametrize("hard", [False, True])
def test_a_step_of_cluster_contrast_is_the_method_written_out(hard: bool) -> None:
    task, plain = begun("clustercontrast", hard_update=hard), begun("clustercontrast", hard_update=hard)
    unit, centres = plain.extract().double(), plain.memory.centres.clone()
    for k in range(4):
        expected = F.normalize(unit[plain.targets == k].mean(0), dim=0)
        torch.testing.assert_close(centres[k], expected, rtol=1e-4, atol=1e-5)
    values = task.step(0, 0)
    images, positions = plain.batches.next()
    assert (plain.targets[positions] >= 0).all()  # outliers are left out
    features = F.normalize(plain.network.embed(images).feature)
    logits = features @ centres.T / 0.05
    loss = -torch.stack([logits[i].log_softmax(0)[plain.targets[p]] for i, p in enumerate(positions)]).mean()
    same_step(task, plain, values["loss"], loss)
    for k in range(4):
        own = [i for i, p in enumerate(positions) if plain.targets[p] == k]
        if hard and own:
            own = [min(own, key=lambda i: float(logits[i, k].detach()))]
        for i in own:
            centres[k] = F.normalize(0.1 * centres[k] + 0.9 * features[i].detach(), dim=0)
    same_rows(task.memory.centres, centres)


@pytest.mark.usefixtures("exact")
def test_a_step_of_mmcl_is_the_method_written_out() -> None:
    changes: dict[str, Any] = {"single_share": 0.0, "similarity": 0.1, "hardest": 0.3, "epochs": (0, 1)}
    task, plain = begun("mmcl", **changes), begun("mmcl", **changes)
    rows = F.normalize(double(24, plain.rows.centres.shape[1]))
    task.rows.centres.copy_(rows)
    values = task.step(1, 0)
    images, positions = plain.batches.next()
    features = F.normalize(plain.network.embed(images).feature)
    labels, total = positives(rows, positions, 0.1), 0
    assert labels.sum(1).max() > 1
    for feature, own in zip(features, labels, strict=True):
        near = [(1 - feature @ rows[j]) ** 2 for j in range(24) if own[j]]
        others = sorted((feature @ rows[j] for j in range(24) if not own[j]), key=lambda s: float(s.detach()))
        far = others[-max(1, int(0.3 * len(others))) :]
        total = total + 5 * sum(near) / len(near) + sum((1 + s) ** 2 for s in far) / len(far)
    same_step(task, plain, values["loss"], total / len(positions))
    momentum = 0.5 * 1 / 2  # of the second of two epochs
    for feature, place in zip(features.detach(), positions, strict=True):
        rows[place] = F.normalize(momentum * rows[place] + (1 - momentum) * feature, dim=0)
    same_rows(task.rows.centres, rows)


@pytest.mark.usefixtures("certain", "exact")
def test_distillation_is_the_loop_over_samples_and_clusters() -> None:
    task = begun("hdcrl")
    rows = task.rows.centres
    rows.copy_(F.normalize(double(*rows.shape)))
    student = F.normalize(double(3, rows.shape[1], seed=1)).requires_grad_(True)
    teacher = F.normalize(double(3, rows.shape[1], seed=2))
    same_gradients(
        task.distillation(student, teacher), plain_distillation(student, teacher, rows, task.targets), student
    )
    task.set_labels(np.full(24, OUTLIER), 0)
    assert float(task.distillation(student, teacher)) == 0  # no cluster with several images
    assert [task.decay(step) for step in (0, 48, 49, 50, 51)] == pytest.approx([0.999, 0.999, 0, 0.5, 2 / 3])
    assert task.decay(5000) == 0.999


@pytest.mark.usefixtures("certain")
def test_the_released_code_of_hdcrl_has_no_distillation() -> None:
    with_it, without = make("hdcrl"), make("hdcrl", distillation=False)
    values = []
    for task in (with_it, without):
        task.initialize()
        task.begin_epoch(0, 0)
        values.append(task.step(0, 0))
    assert values[0]["loss"] == values[0]["contrast"] + values[0]["distillation"]
    assert values[1]["loss"] == values[1]["contrast"] == values[0]["contrast"]
    assert "distillation" not in values[1]
    assert with_it.trained is with_it.pair.teacher
    assert without.trained is without.pair.student
    was = make("hdcrl", distillation=False).pair.teacher
    assert all(map(torch.equal, without.pair.teacher.state_dict().values(), was.state_dict().values()))  # never updated


@pytest.mark.usefixtures("certain", "exact")
def test_a_step_of_idm_is_the_method_written_out() -> None:
    task, plain = begun("idm"), begun("idm")
    unit = plain.extract(plain.source.pixels).double()
    first = torch.stack([F.normalize(unit[plain.source.labels == k].mean(0), dim=0) for k in range(5)])
    unit = plain.extract().double()
    then = torch.stack([F.normalize(unit[plain.targets == k].mean(0), dim=0) for k in range(4)])
    torch.testing.assert_close(plain.bridged.classifier.data[:9], torch.cat([first, then]), rtol=1e-4, atol=1e-5)
    values = task.step(0, 0)
    (source, own), (target, positions) = plain.of_source.next(), plain.batches.next()
    pooled, feature = plain.bridged.network.embed(torch.cat([source, target]))
    logits = feature @ plain.bridged.classifier[:9].T
    mixtures = plain.bridged.mixer.weights
    labels, half = [*own.tolist(), *(plain.targets[positions] + 5).tolist()], len(own)
    total = 0
    for i, y in enumerate(labels):
        positive, negative = hardest_pair(i, pooled[: 2 * half], labels)
        triplet = (away(pooled[i], pooled[positive]) - away(pooled[i], pooled[negative]) + 0.3).clamp(min=0)
        past = pooled.detach()  # the first batch is the whole memory
        with_past = (away(pooled[i], past[positive]) - away(pooled[i], past[negative]) + 0.3).clamp(min=0)
        total = total + (0.3 * plain_identity(logits[i], y) + triplet + with_past) / (2 * half)
    for i in range(half):
        for k, (share, y) in enumerate(zip(mixtures[i], (labels[i], labels[half + i]), strict=True)):
            total = total + 0.7 * share.detach() * plain_identity(logits[2 * half + i], y) / half
            total = total + 0.1 * share * away(pooled[2 * half + i], pooled[k * half + i]) / half
    for shares in mixtures.T:
        mean = sum(shares) / half
        total = total - (sum((share - mean) ** 2 for share in shares) / half).sqrt()
    same_step(task, plain, values["loss"], total)


@pytest.mark.usefixtures("exact")
def test_the_memory_of_idm_lasts_and_has_the_labels_of_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    clusters = [np.array([0, 1, 2, 3] * 5 + [OUTLIER] * 4), np.array([OUTLIER] * 8 + [1, 0, 0, 1] * 4)]
    monkeypatch.setattr("msinet.unsupervised.task.cluster", lambda *_: clusters[0].copy())
    task = begun("idm")
    rows, keys, triplets = [], [], []
    given = task.losses

    def noting(pooled: Tensor, logits: Tensor, of_batch: Tensor, mixtures: Tensor) -> dict[str, Tensor]:
        rows.extend(pooled.detach()[: len(of_batch)])
        keys.extend(of_batch.tolist())
        parts: dict[str, Tensor] = given(pooled, logits, of_batch, mixtures)
        triplets.append(parts["cross_batch"].item())
        return parts

    monkeypatch.setattr(task, "losses", noting)
    forgotten = False
    for epoch, labels in enumerate(clusters):
        monkeypatch.setattr("msinet.unsupervised.task.cluster", lambda *_, labels=labels: labels.copy())
        for step in (0, 1):
            if epoch and not step:
                task.begin_epoch(epoch, 0)
            task.step(epoch, step)
            kept = list(zip(rows, keys, strict=True))[-44:]  # 20 images of the source, 24 of the target
            of_target = [OUTLIER if y == OUTLIER else 5 + y for y in labels.tolist()]
            of_kept = [key if key < 5 else of_target[key - 5] for _, key in kept]
            forgotten |= OUTLIER in of_kept
            total = 0.0
            for (anchor, _), y in zip(kept[-16:], of_kept[-16:], strict=True):
                distances = [float(away(anchor, row)) for row, _ in kept]
                positive = max(d for d, label in zip(distances, of_kept, strict=True) if label == y)
                negative = min(d for d, label in zip(distances, of_kept, strict=True) if label not in (y, OUTLIER))
                total += max(0.0, positive - negative + 0.3)
            assert triplets[-1] == pytest.approx(total / 16, rel=1e-6)
    assert forgotten  # images of the memory are outliers later
    assert len(rows) > 44  # the oldest ones were replaced


def test_a_view_shares_the_images_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Batches.__init__

    def resident(batches: Batches, *args: Any, resident: Any = None, **kwargs: Any) -> None:
        made(batches, *args, resident=True if resident is None else resident, **kwargs)

    monkeypatch.setattr(Batches, "__init__", resident)
    hdcrl, mmt = make("hdcrl"), make("mmt")
    assert hdcrl.second_view.resident is hdcrl.batches.resident
    assert mmt.second_view.resident is mmt.batches.resident
    first, second = mmt.of_source
    assert first.resident is second.resident is not mmt.batches.resident


@pytest.mark.usefixtures("exact")
def test_a_step_of_mmt_on_the_source_is_the_method_written_out() -> None:
    task, plain = begun("mmt"), begun("mmt")
    values = task.step(0, 0)
    total = 0
    for learner, batches in zip(plain.couple.learners, plain.of_source, strict=True):
        images, found = batches.next()
        pooled, feature = learner.network.embed(images)
        logits, labels = feature @ learner.classifier[:5].T, found.tolist()
        for i, y in enumerate(labels):
            positive, negative = (away(pooled[i], pooled[j]) for j in hardest_pair(i, pooled, labels))
            total = total + (plain_identity(logits[i], y) + (1 + (positive - negative).exp()).log()) / len(labels)
    same_step(task, plain, values["loss"], total)


@pytest.mark.usefixtures("certain", "exact")
def test_a_step_of_mmt_is_the_method_written_out_with_the_other_teacher() -> None:
    task, plain = begun("mmt", epochs=(0, 1), closest=0.05), begun("mmt", epochs=(0, 1), closest=0.05)
    for one in (task, plain):  # teachers that differ from each other and from the learners
        torch.manual_seed(5)
        for p in one.couple._teachers.parameters():
            p.add_(0.05 * torch.randn_like(p))
    values = task.step(1, 0)
    (images, positions), (others, _) = plain.batches.next(), plain.second_view.next()
    views, labels = (images, others), plain.targets[positions].tolist()
    total = 0
    for me in (0, 1):
        learner, teacher = plain.couple.learners[me], plain.couple.teachers[1 - me]
        pooled, feature = learner.network.embed(views[me])
        logits = feature @ learner.classifier[:4].T
        with torch.no_grad():
            theirs, feature = teacher.network.embed(views[1 - me])
            taught = feature @ teacher.classifier[:4].T
        for i, y in enumerate(labels):
            pair = hardest_pair(i, pooled, labels)
            ours = torch.stack([away(pooled[i], pooled[j]) for j in pair])
            hard = plain_identity(logits[i], y), (1 + (ours[0] - ours[1]).exp()).log()
            p = taught[i].exp() / taught[i].exp().sum()
            q = torch.stack([away(theirs[i], theirs[j]) for j in pair]).softmax(0)
            soft = -(p * logits[i].log_softmax(0)).sum(), -(q * ours.log_softmax(0)).sum()
            total = total + (0.5 * hard[0] + 0.5 * soft[0] + 0.2 * hard[1] + 0.8 * soft[1]) / len(labels)
    same_step(task, plain, values["loss"], total)


def test_methods_share_their_settings_and_canonical_forms_leave_out_the_others() -> None:
    names = set(settings(resolve_unsupervised("paper", "gs", "market1501").recipe))
    for method in METHODS:
        recipe = resolve_unsupervised("paper", method, "market1501").recipe
        assert set(OWN_SETTINGS[method]) < names
        assert set(OWN_SETTINGS[method]) < set(canonical(recipe))
        others = {name for other in METHODS for name in OWN_SETTINGS[other]} - set(OWN_SETTINGS[method])
        assert not others & set(canonical(recipe))
        assert ("label_smoothing" in canonical(recipe)) == (method in ("idm", "mmt"))
        assert ("margin" in canonical(recipe)) == (method == "idm")
    assert "method" not in canonical(published("paper", "light").recipe)


@pytest.mark.parametrize("changes", [{"triplet": False}, {"soft_margin": True}])
def test_the_margin_of_idm_identifies_its_run(changes: dict[str, Any]) -> None:
    default = resolve_unsupervised("paper", "idm", "market1501").recipe
    recipe = changed(default, **changes)
    assert canonical(recipe) == canonical(default)  # settings of other losses
    other = canonical(changed(recipe, margin=0.5))
    assert other == canonical(default) | {"margin": 0.5}
    assert from_canonical(other).losses.margin == 0.5


@pytest.mark.parametrize(("method", "across"), WAYS)
def test_the_backbone_has_its_own_rate_wherever_a_method_keeps_it(method: Method, across: bool) -> None:
    task = make(method, across=across, backbone_lr=0.1)
    times = {p: group["times"] for group in task.optimizer.param_groups for p in group["params"]}
    mixer = set(task.bridged.mixer.parameters()) if method == "idm" else set()
    found = {name: (times[p], p in mixer) for name, p in task.network.named_parameters() if p.requires_grad}
    assert {value for value, _ in found.values()} == {0.1, 1.0}
    for name, (value, of_mixer) in found.items():
        assert value == (0.1 if "backbone" in name.split(".") and not of_mixer else 1.0), name


@pytest.mark.parametrize(("name", "image"), [("rga_sc_x0_25", (48, 16)), ("resnet18_x0_25", (256, 128))])
def test_features_are_counted_at_the_size_of_the_network(name: str, image: tuple[int, int]) -> None:
    network = build_model(name, 3, image=image)
    assert isinstance(network, ReIDNet)
    assert features_of(network) == network.channels
    assert network.training


def test_the_published_recipes() -> None:
    recipes = {method: resolve_unsupervised("paper", method, "market1501").recipe for method in METHODS}
    assert {m: (r.schedule.epochs, r.sampler.steps_per_epoch, r.sampler.batch) for m, r in recipes.items()} == {
        "clustercontrast": (50, 200, 256),
        "gs": (50, 400, 64),
        "spcl": (50, 400, 64),
        "hdcrl": (70, 100, 256),
        "mmcl": (60, None, 128),
        "idm": (50, 400, 64),
        "mmt": (80, 400, 64),
    }
    assert {m: r.method_settings.eps for m, r in recipes.items()} == dict.fromkeys(METHODS, 0.6) | {"hdcrl": 0.5}
    first = {m: r.learning_rate(r.schedule.warmup) for m, r in recipes.items()}
    assert first == {m: pytest.approx(0.01 if m == "mmcl" else 3.5e-4) for m in METHODS}
    assert recipes["gs"].learning_rate(20) == pytest.approx(3.5e-5)
    assert recipes["idm"].method_settings.jaccard_scaled
    assert not recipes["idm"].losses.normalize_triplet
    longer = {
        "clustercontrast": {"msmt17": 400, "veri776": 400},
        "gs": {"msmt17": 800},
        "spcl": {"msmt17": 800, "veri776": 800, "vehicleid": 800},
    }
    for target in ("msmt17", "veri776", "vehicleid"):
        for method in METHODS:
            resolved = resolve_unsupervised("paper", method, target)
            changes: dict[str, Any] = {}
            if steps := longer.get(method, {}).get(target):
                changes["steps_per_epoch"] = steps
                assert resolved.origins["steps_per_epoch"] == f"released code of {method} for {target}"
            if (method, target) == ("gs", "msmt17"):
                changes["group"] = 1024
            if target != "msmt17":
                changes |= {"height": 256, "width": 256}
            assert resolved.recipe == changed(recipes[method], **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": 0.0}, "eps must be above 0"),
        ({"eps": 0.99}, r"eps \+ eps_gap must be below 1"),
        ({"k2": 31}, "k2 must be at most k1"),
        ({"method": "moco"}, "unknown method 'moco'"),
        ({"memory_momentum": 1.5}, "memory_momentum must lie in"),
        ({"precision": "bf16"}, "run in fp32"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        changed(resolve_unsupervised("paper", "gs", "market1501").recipe, **changes)


# --- Whole runs ---

OPTIONS = RunOptions(device="cpu", progress=False)


@pytest.fixture
def run(data_root: Path, market: Dataset) -> Iterator[Callable[..., dict[str, Any]]]:
    """Runs a method on the small data sets: four steps."""

    def work(
        folder: Path,
        method: Method,
        at: Any = None,
        target: Dataset | None = None,
        *,
        across: bool | None = None,
        **changes: Any,
    ) -> Any:
        target = target or market
        adapts = method not in ALONE if across is None else across
        source = load_dataset("msmt17", data_root) if adapts else target
        training = Training("msinet_x0_25", {"neck": "bn"}, source, target, small(method, **changes))
        return learn(folder, training, OPTIONS, at_steps(at, 4))

    return work  # type: ignore[return-value]


def outcome(folder: Path) -> tuple[bytes, list[dict[str, str]]]:
    return (folder / "model.safetensors").read_bytes(), table(folder / "history.csv")


@pytest.mark.parametrize("at", [2, 3])
@pytest.mark.parametrize(("method", "across"), WAYS)
def test_an_interrupted_run_ends_in_the_same_bits(
    method: Method, across: bool, at: int, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", method, across=across)
    monkeypatch.setattr("msinet.training.fit.CHECKPOINT_SECONDS", 0)
    with pytest.raises(Stopped):  # in the middle of the first epoch, or after the clusters of the second one
        run(tmp_path / "parts", method, {at: stop}, across=across)
    run(tmp_path / "parts", method, across=across)
    assert outcome(tmp_path / "parts")[0] == outcome(tmp_path / "whole")[0]
    assert outcome(tmp_path / "parts")[1] == outcome(tmp_path / "whole")[1]


def permuted(dataset: Dataset) -> Dataset:
    """The same images with each other's identities; the fingerprint is kept, as it enters no number."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(dataset.train))
    train = tuple(
        replace(image, identity=dataset.train[other].identity)
        for image, other in zip(dataset.train, order, strict=True)
    )
    return replace(dataset, train=train)


@pytest.mark.parametrize(("method", "across"), WAYS)
def test_hidden_labels_change_nothing_but_the_quality(
    method: Method, across: bool, run: Callable[..., Any], market: Dataset, tmp_path: Path
) -> None:
    first = run(tmp_path / "a", method, across=across, epochs=1)
    other = permuted(market)
    assert not np.array_equal(other.labels, market.labels)
    second = run(tmp_path / "b", method, target=other, across=across, epochs=1)
    assert outcome(tmp_path / "a")[0] == outcome(tmp_path / "b")[0]
    assert first.get("ari") != second.get("ari") or method == "mmcl"  # which has no clusters
    for name in ("clusters", "outliers", "mAP", "R1"):
        assert first.get(name) == second.get(name)


def test_the_number_of_hidden_identities_changes_no_weight(
    run: Callable[..., Any], market: Dataset, tmp_path: Path
) -> None:
    known = sorted({image.identity for image in market.train})
    train = tuple(
        replace(image, identity=known[0] if image.identity == known[-1] else image.identity) for image in market.train
    )
    merged = replace(market, train=train)
    assert merged.num_classes == market.num_classes - 1
    first = run(tmp_path / "a", "gs", epochs=1)
    run(tmp_path / "b", "gs", target=merged, epochs=1)
    assert outcome(tmp_path / "a")[0] == outcome(tmp_path / "b")[0]
    assert first["seconds_labelling"] > 0


@pytest.mark.parametrize("method", ADAPTING)
def test_a_folder_of_images_is_enough_to_adapt_to(
    method: Method, data_root: Path, market: Dataset, tmp_path: Path
) -> None:
    images, source = image_folder(market.root / "bounding_box_train"), load_dataset("msmt17", data_root)
    record = learn(tmp_path / "out", Training("msinet_x0_25", {"neck": "bn"}, source, images, small(method)), OPTIONS)
    assert (record["source"], record["target"]) == ("msmt17", "bounding_box_train")
    assert record["clusters"] is not None
    assert not {"nmi", "mAP"} & record.keys()


def test_a_folder_of_images_is_enough(tmp_path: Path, market: Dataset) -> None:
    folder = market.root / "bounding_box_train"
    images = image_folder(folder)
    assert len(images.train) == len(market.train)
    record = learn(tmp_path / "out", Training("msinet_x0_25", {"neck": "bn"}, images, images, small("gs")), OPTIONS)
    assert "mAP" not in record
    assert "nmi" not in record
    assert record["clusters"] is not None
    assert not (tmp_path / "out" / "queries.csv").exists()
    network = build_model("msinet_x0_25", 1, neck="bn")
    load_weights(network, tmp_path / "out" / "model.safetensors")
    (tmp_path / "empty").mkdir()
    (tmp_path / "own.csv").touch()
    for path, message in (
        (tmp_path / "empty", "no image in"),
        (tmp_path / "none", "does not exist"),
        (tmp_path / "own.csv", "is a file; pass a folder of images .msinet learn --data-root takes a list"),
    ):
        with pytest.raises(DataError, match=rf"{message}.*{path}|{path} {message}"):
            image_folder(path)


def test_a_folder_of_images_has_its_name_and_no_hidden_files(
    tmp_path: Path, market: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(market.root / "query", folder / "b")
    shutil.copytree(market.root / "query", folder / ".@__thumb")
    (folder / "._a.jpg").write_bytes(b"not an image")
    expected = image_folder(folder)
    assert [image.path.parent for image in expected.train] == [folder / "b"] * 10
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    for way in (Path(), Path("~/photos")):
        found = image_folder(way)
        assert (found.name, found.train) == ("photos", expected.train)
        assert found.fingerprint == expected.fingerprint
    if sys.platform == "linux":  # others refuse names that are not UTF-8
        renamed = folder.rename(tmp_path / os.fsdecode(b"caf\xe9"))
        assert (image_folder(renamed).name, len(image_folder(renamed).fingerprint)) == ("caf?", 12)


@pytest.mark.parametrize("neck", ["pcb", "fbl"])
def test_another_neck_than_that_of_the_feature_is_refused(
    neck: str, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["learn", "--data-root", str(data_root), "--out", str(tmp_path / "out"), "--profile", "smoke"]
    words += ["--model", "msinet_x0_25", "--options", f"neck={neck}", "--device", "cpu", "--no-progress"]
    assert run_command(words) == 2
    assert f"option neck={neck}, but recipe setting feature=global needs neck=bn" in capsys.readouterr().err


def test_the_command_learns_from_a_list_of_images(data_root: Path, tmp_path: Path) -> None:
    market = load_dataset("market1501", data_root)
    lines = ["path,split,identity,camera"]
    (draw,) = market.draws
    parts = {"query": [market.test[i] for i in draw.query], "gallery": [market.test[i] for i in draw.gallery]}
    for split, images in {"train": market.train, **parts}.items():
        lines += [f"{one.path},{split},{one.identity},{one.camera}" for one in images if one.identity >= 0]
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    words = ["learn", "--data-root", str(tmp_path / "own.csv"), "--out", str(tmp_path / "out"), "--profile", "smoke"]
    words += ["--model", "msinet_x0_25", "--method", "mmcl", "--device", "cpu", "--no-progress"]
    assert run_command(words) == 0
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert (record["source"], record["target"]) == ("own", "own")


def learn_command(out: Path, *more: object) -> int:
    """`msinet learn` at its smallest."""
    words = ["learn", "--out", out, "--profile", "smoke", "--model", "msinet_x0_25", "--device", "cpu", "--no-progress"]
    return run_command([str(word) for word in (*words, *more)])


def test_the_command_learns_from_joined_sets_and_counts_queries(data_root: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    joined = "market1501+msmt17"
    assert learn_command(out, "--data-root", data_root, "--dataset", joined, "--method", "mmcl") == 0
    assert json.loads((out / "record.json").read_text())["target"] == joined
    printed = capsys.readouterr().out
    assert f"{joined}: mAP" in printed
    assert "queries ranked" in printed
    assert "history.csv, queries.csv, model.safetensors" in printed
    assert (out / "queries.csv").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--name", "x", "--keep-same-camera"], "--name, --keep-same-camera has no effect with --images"),
        (["--evaluate-every", "1"], "--evaluate-every has no effect with --images"),
        (["--data-root", "anywhere"], "--data-root has no effect with --images"),
    ],
)
def test_options_without_effect_on_a_folder_are_refused(
    words: list[str], message: str, market: Dataset, tmp_path: Path, capsys
) -> None:
    assert learn_command(tmp_path / "out", "--images", market.root / "query", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_source_and_target_must_suit_the_method(data_root: Path, market: Dataset, tmp_path: Path) -> None:
    other = load_dataset("msmt17", data_root)
    again = load_dataset("market1501", data_root)
    vehicles, small_lists = (load_dataset(name, data_root) for name in ("vehicleid", "vehicleid_800"))
    for method, source, target, message in (
        ("idm", market, market, "no other --source is given"),
        ("spcl", again, market, "source and target are both market1501; give a --source of another data set"),
        ("gs", other, market, "learns from the target alone, but the source is msmt17"),
        ("idm", image_folder(market.root / "bounding_box_train"), other, "needs a source with identities"),
        (
            "mmt",
            market,
            image_folder(market.root / "bounding_box_train"),
            "share 31 training image.s., whose identities",
        ),
        ("spcl", small_lists, vehicles, "source vehicleid_800 and target vehicleid share"),
    ):
        training = Training("msinet_x0_25", {"neck": "bn"}, source, target, small(method))
        with pytest.raises(UserError, match=message):
            learn(tmp_path / "out", training, OPTIONS)


def test_a_network_without_necks_is_named(data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["learn", "--data-root", str(data_root), "--out", str(tmp_path / "out"), "--method", "gs"]
    assert run_command([*words, "--dataset", "market1501", "--profile", "smoke", "--model", "deit_small"]) == 2
    assert "deit_small has no option neck, which methods without labels need" in capsys.readouterr().err


def test_the_source_cannot_be_the_target(data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["learn", "--data-root", str(data_root), "--out", str(tmp_path / "out"), "--method", "spcl"]
    words += ["--source", "market1501", "--dataset", "market1501", "--profile", "smoke", "--model", "msinet_x0_25"]
    assert run_command(words) == 2
    assert "source and target are both market1501" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k1": 40}, "k1 = 40, 31 images; lower k1"),
        ({"eps": 1e-6, "min_samples": 4}, "no cluster among 31 images .31 outliers"),
    ],
)
def test_clusters_that_cannot_be_found_end_the_run(changes: Any, message: str, run: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path / "out", "clustercontrast", **changes)


def test_outliers_alone_train_where_they_are_kept(run: Callable[..., Any], tmp_path: Path) -> None:
    record = run(tmp_path / "out", "gs", eps=1e-6, min_samples=4)
    assert (record["clusters"], record["outliers"]) == (0, 31)


def test_a_start_with_another_neck_gives_its_backbone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pretext = build_model("msinet_x0_25", 9)
    save_weights(pretext, tmp_path / "msinet.safetensors", {})
    network = build_model("msinet_x0_25", 3, neck="bn")
    before = copy.deepcopy(network.state_dict())
    load_start(network, tmp_path / "msinet.safetensors")
    for name, value in network.state_dict().items():
        expected = pretext.state_dict()[name] if name.startswith("backbone.") else before[name]
        assert torch.equal(value, expected), name
    whole = build_model("msinet_x0_25", 3, neck="transfer")
    load_start(whole, tmp_path / "msinet.safetensors")
    assert torch.equal(whole.state_dict()["head.fc.weight"], pretext.state_dict()["head.fc.weight"])
    with pytest.raises(WeightsError):
        load_start(build_model("osnet_x0_25", 3, neck="bn"), tmp_path / "msinet.safetensors")


def test_a_start_with_another_neck_needs_the_same_interactions(tmp_path: Path) -> None:
    save_weights(build_model("msinet_x0_25", 9, genotype="GGEGAGGNGAEA"), tmp_path / "a.safetensors", {})
    other = build_model("msinet_x0_25", 3, neck="bn", genotype="GGNGAGGNGANA")
    with pytest.raises(WeightsError, match="2 interactions differ"):
        load_start(other, tmp_path / "a.safetensors")


def test_a_start_of_another_image_size_is_an_error(tmp_path: Path) -> None:
    network = build_model("rga_sc_x0_25", 3, image=(32, 32))
    save_weights(network, tmp_path / "a.safetensors", {"height": "32", "width": "32"})
    with pytest.raises(WeightsError, match="for images of 32x32, but the network was built for 64x32"):
        load_start(build_model("rga_sc_x0_25", 3, image=(64, 32)), tmp_path / "a.safetensors")


@pytest.mark.parametrize("neck", ["fbl", "transfer", "cdnet", "bn", "fc"])
def test_embed_is_the_test_feature(neck: str) -> None:
    network = build_model("msinet_x0_25", 3, neck=neck).eval()
    assert isinstance(network, ReIDNet)
    images = torch.randn(2, 3, 32, 16)
    embedding = network.embed(images)
    assert isinstance(embedding, Embedding)
    assert torch.equal(embedding.feature, network(images))
    assert embedding.pooled.shape == embedding.feature.shape
