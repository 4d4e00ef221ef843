import numpy_reference as reference
import pytest

from keras_tune.errors import UserError
from keras_tune.interop.tensor_names import infer_architecture
from keras_tune.models.presets import PRESETS, PUBLISHED


@pytest.mark.parametrize("preset", PUBLISHED)
def test_every_preset_is_told_from_its_shapes(preset):
    arguments = infer_architecture(reference.encoder_shapes(PRESETS[preset]))
    assert arguments["name"] == preset
    assert arguments["tail_filters"] == PRESETS[preset].tail_filters()


@pytest.mark.parametrize("name", reference.tiny_variants())
def test_other_widths_are_told_too(name):
    variant = reference.tiny_variants()[name]
    arguments = infer_architecture(reference.encoder_shapes(variant))
    assert arguments == {
        "contraction_depth": variant.contraction_depth,
        "decoder_depth": variant.decoder_depth,
        "base_filters": variant.base_filters,
        "tail_filters": variant.tail_filters(),
        "extra_links": variant.extra_links,
        "tail_type": variant.tail_type,
        "name": "tune",
    }


@pytest.mark.parametrize("names", [["layer.weight"], ["conv1.layers.0.weight"]])
def test_no_encoder(names):
    with pytest.raises(UserError, match="no encoder"):
        infer_architecture({name: (4, 1, 3) for name in names})
