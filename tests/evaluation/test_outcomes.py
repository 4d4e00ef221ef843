import numpy as np
import pytest

from keras_tune.evaluation import group_folds

pytestmark = pytest.mark.one_backend


def clips(count=200, artists=40, seed=0):
    generator = np.random.default_rng(seed)
    artist = generator.integers(0, artists, count)
    return artist % 4, np.array([f"artist {number}" for number in artist])


@pytest.mark.parametrize("seed", [0, 1])
def test_folds_share_no_group_and_cover_all_clips_once(seed):
    strata, groups = clips()
    folds = group_folds(strata, groups, 5, seed)
    tests = np.concatenate([test for _, _, test in folds])
    assert sorted(tests) == list(range(200))
    for train, valid, test in folds:
        assert sorted(np.concatenate([train, valid, test])) == list(range(200))
        sets = [set(groups[rows]) for rows in (train, valid, test)]
        assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
        shares = np.bincount(strata[test], minlength=4) / len(test)
        np.testing.assert_allclose(shares, np.bincount(strata) / 200, atol=0.15)


def test_the_inner_choice_does_not_depend_on_the_outer_fold():
    # Other labels in the outer fold must not move a clip between train and valid.
    strata, groups = clips()
    train, valid, test = group_folds(strata, groups, 5)[0]
    from sklearn.model_selection import StratifiedGroupKFold

    rest = np.sort(np.concatenate([train, valid]))
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    inner_train, inner_valid = next(splitter.split(rest[:, None], strata[rest], groups[rest]))
    assert rest[inner_train].tolist() == train.tolist()
    assert rest[inner_valid].tolist() == valid.tolist()


def test_too_few_groups():
    with pytest.raises(ValueError, match="number of groups, which is 3. Received: folds=5"):
        group_folds([0, 1, 0, 1], ["a", "b", "c", "c"], 5)
