"""The recipes beside the package are taken by their commands, and do what their names say."""

import pathlib

import pytest

from keras_tune.recipes import _cli
from keras_tune.recipes.pretrain import PretrainConfig
from keras_tune.recipes.search import SearchConfig
from keras_tune.search.space import Space

pytestmark = pytest.mark.one_backend

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "recipes"


def parse(config_class, *files):
    found = []
    options = [option for file in files for option in ("--config", str(FOLDER / file))]
    _cli.run(found.append, config_class, options)
    return found[0]


def test_every_recipe_is_taken():
    for file in FOLDER.rglob("*.yaml"):
        config_class = SearchConfig if file.name.startswith("search_") else PretrainConfig
        # An unknown key or a wrong value would end the process.
        assert isinstance(parse(config_class, file), config_class)


@pytest.mark.parametrize("base", ["chain_published.yaml", "chain_filter_only.yaml", "emotify.yaml"])
def test_an_ablation_changes_one_key(base):
    whole = parse(PretrainConfig, base)
    without = parse(PretrainConfig, base, "ablations/no_pitch_shift.yaml")
    assert without.augment.pitch_shift_probability == 0.0
    without.augment.pitch_shift_probability = whole.augment.pitch_shift_probability
    assert without == whole


def test_the_published_chain_is_published():
    chain = parse(PretrainConfig, "chain_published.yaml").augment
    # Spijkervet & Burgoyne, ISMIR 2021, section 3.1, in the order of the chain.
    assert (
        chain.polarity_probability,
        chain.noise_probability,
        chain.gain_probability,
        chain.filter_probability,
        chain.delay_probability,
        chain.pitch_shift_probability,
        chain.reverb_probability,
    ) == (0.8, 0.01, 0.3, 0.8, 0.3, 0.6, 0.6)


def test_the_search_for_the_depth_goes_over_all_depths():
    for name in ("search_depth.yaml", "search_emotify.yaml"):
        space = parse(SearchConfig, name).space
        assert isinstance(space, Space) and space.decoder_depth == [0, 1, 2, 3, 4]
