import itertools

import numpy as np
import pytest

from hierphase.analysis import patch_correlations


def test_grid_covariance_against_numpy():
    fields = np.random.default_rng(0).normal(size=(6, 2, 3, 4)).cumsum(axis=3)
    ours = patch_correlations.grid_covariance(fields)
    distances, n_pairs, _ = patch_correlations.grid_distances(3, 4)
    assert n_pairs.sum() == 144 and n_pairs[0] == 12 and (np.diff(distances) > 0).all()
    place = [(i, j) for i in range(3) for j in range(4)]
    for n in range(2):
        covariance = np.cov(fields[:, n].reshape(6, -1).T)
        for k, distance in enumerate(distances):
            expected = sum(
                covariance[a, b]
                for a, b in itertools.product(range(12), repeat=2)
                if np.isclose(np.hypot(*np.subtract(place[a], place[b])), distance)
            )
            assert ours[n, k] == pytest.approx(expected)


def test_patch_changes():
    x_0 = np.zeros((1, 2, 4, 4), dtype=np.float32)
    samples = np.zeros((3, 1, 2, 4, 4), dtype=np.float32)
    samples[1, 0, 0, 0, 3] = 4
    changes = patch_correlations.patch_changes(x_0, samples, 2)
    assert changes.shape == (3, 1, 2, 2)
    assert changes[1, 0].tolist() == [[0, np.sqrt(16 / 8)], [0, 0]]
    assert (changes[[0, 2]] == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.patch_changes(np.zeros((1, 1, 4, 4)), np.zeros((2, 1, 1, 4, 4)), 3),
         "size 3 do not tile images of 4 x 4"),
        (lambda c: c.patch_changes(np.zeros((1, 1, 4, 4)), np.zeros((2, 2, 1, 4, 4)), 2),
         r"shape \(K, 1, 1, 4, 4\), got \(2, 2, 1, 4, 4\)"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(patch_correlations)
