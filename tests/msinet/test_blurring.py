"""SFT's post-processing against a loop over queries in float64."""

import numpy as np
import pytest
import torch

from msinet.errors import UserError
from msinet.retrieval import blur, blurring


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def looped(query: np.ndarray, gallery: np.ndarray, nearest: int, temperature: float) -> np.ndarray:
    query, gallery = unit(query.astype(float)), unit(gallery.astype(float))
    result = np.empty((len(query), len(gallery)))
    for i, q in enumerate(query):
        result[i] = ((q - gallery) ** 2).sum(1) + 4
        first = np.argsort(result[i])[:nearest]
        x = gallery[first]
        weights = np.exp(x @ x.T / temperature)
        mixed = unit((weights / weights.sum(1, keepdims=True)) @ x)
        result[i, first] = ((q - mixed) ** 2).sum(1)
    return result


@pytest.mark.parametrize(("nearest", "temperature"), [(1, 0.1), (5, 0.1), (12, 0.02), (50, 1.0)])
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_distances_are_those_of_the_loop(nearest: int, temperature: float, chunk: int, monkeypatch) -> None:
    monkeypatch.setattr(blurring, "CHUNK_BYTES", chunk)
    rng = np.random.default_rng(nearest)
    query, gallery = (rng.standard_normal((n, 8)).astype(np.float32) for n in (6, 20))
    found = blur(query, torch.from_numpy(gallery), nearest=nearest, temperature=temperature)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, looped(query, gallery, nearest, temperature), rtol=1e-4, atol=1e-5)


def test_others_stay_behind_in_their_order() -> None:
    rng = np.random.default_rng(0)
    query, gallery = rng.standard_normal((4, 8)), rng.standard_normal((30, 8))
    plain = np.argsort(-unit(query) @ unit(gallery).T, axis=1)
    found = np.argsort(blur(query, gallery, nearest=7), axis=1)
    assert (found[:, 7:] == plain[:, 7:]).all()
    assert (np.sort(found[:, :7]) == np.sort(plain[:, :7])).all()
    assert (found[:, :7] != plain[:, :7]).any()


@pytest.mark.parametrize(("nearest", "temperature"), [(0, 0.1), (-3, 0.1), (5, 0.0), (5, float("nan"))])
def test_arguments_out_of_range(nearest: int, temperature: float) -> None:
    with pytest.raises(UserError, match="at least one image and a temperature above 0"):
        blur(np.eye(3), np.eye(3), nearest=nearest, temperature=temperature)
