import itertools
import math

import pytest

from keras_tune.models import PRESETS, TUNe, count_parameters, largest_width, tail_widths

pytestmark = pytest.mark.one_backend


def trainable(model):
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


@pytest.mark.parametrize("preset", ["tune_plus", "tune_expansive_2", "tune_clmr_tail", "clmr"])
def test_count_is_that_of_published_models(preset):
    chosen = PRESETS[preset]
    counted = count_parameters(
        chosen.contraction_depth,
        chosen.decoder_depth,
        chosen.base_filters,
        chosen.tail_filters(),
        chosen.extra_links,
        chosen.tail_type,
    )
    assert counted == trainable(TUNe.from_preset(preset, load_weights=False))


CASES = [
    (contraction, decoder, width, length, links, size)
    for contraction, decoder in [(2, 1), (3, 3), (3, 0)]
    for width, length, links, size in [(1, 5, True, 7), (3, 6, False, 40)]
    if decoder or not links
]


@pytest.mark.parametrize("contraction, decoder, width, length, links, size", CASES)
def test_count_is_that_of_any_model(contraction, decoder, width, length, links, size):
    tail = tail_widths(decoder, contraction, width, length, size, 59049)
    model = TUNe(contraction, decoder, width, tail, links)
    assert count_parameters(contraction, decoder, width, tail, links) == trainable(model)
    assert model.representation_dim == size


def test_tails_are_the_published_ones():
    for name in ("tune_vanilla", "tune_tail_1", "tune_tail_5", "tune_expansive_3", "tune_plus"):
        chosen = PRESETS[name]
        blocks = len(chosen.tail_filters())
        length = blocks + chosen.contraction_depth - chosen.decoder_depth
        arguments = (chosen.decoder_depth, chosen.contraction_depth, chosen.base_filters, length)
        assert tail_widths(*arguments, 512, 59049) == list(chosen.tail_filters())
    assert tail_widths(0, 4, 128, 9, 512, 59049) == list(PRESETS["clmr"].tail_filters())
    # Five divisions by 3 are left of 243 samples, and six widths are a stem and five blocks.
    assert tail_widths(0, 4, 2, 9, 16, 243) == [2, 2, 2, 4, 4, 16]


def test_too_short_a_tail_is_refused():
    with pytest.raises(ValueError, match="tail_length=2"):
        tail_widths(1, 3, 8, 2, 512, 59049)


@pytest.mark.parametrize(
    "preset",
    [
        "clmr",
        "tune_vanilla",
        "tune_tail_1",
        "tune_tail_3",
        "tune_tail_4",
        "tune_tail_5",
        "tune_plus",
        "tune_contractive_1",
        "tune_contractive_2",
        "tune_contractive_3",
        "tune_expansive_1",
        "tune_expansive_2",
    ],
)
def test_the_paper_s_widths_follow_from_its_budget(preset):
    """The paper's widths are the largest under 2.4 million, the head of 50 tags included."""
    chosen = PRESETS[preset]
    depths = (chosen.decoder_depth, chosen.contraction_depth)
    length = len(chosen.tail_filters()) + depths[1] - depths[0]

    def count(width):
        tail = tail_widths(*depths, width, length, 512, 59049)
        head = 512 * 50 + 50
        return count_parameters(*depths[::-1], width, tail, chosen.extra_links) + head

    assert largest_width(count, 2.4e6) == chosen.base_filters


def test_the_width_is_the_largest():
    budgets = [10, 11, 99, 100, 1000, 12345]
    for exponent, budget in itertools.product([1, 2], budgets):
        width = largest_width(lambda w, e=exponent: w**e, budget)
        assert width**exponent <= budget < (width + 1) ** exponent


def test_a_budget_that_no_width_meets():
    with pytest.raises(ValueError, match="a width of 1 already has 50 parameters"):
        largest_width(lambda width: 50 * width, 49)
    with pytest.raises(ValueError, match="none within 10% below"):
        largest_width(lambda width: 50 * width, 99, slack=0.1)
