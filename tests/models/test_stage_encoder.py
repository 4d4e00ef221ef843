"""Stages as a representation: what a file of it remembers, and what it computes."""

import keras
import numpy as np
import pytest
from keras import ops
from seeded import seed_weights

from keras_tune.errors import UserError
from keras_tune.evaluation.encoders import encoder_fingerprint
from keras_tune.models import StageEncoder, Tagger, TUNe


def small():
    return seed_weights(
        TUNe(
            1,
            1,
            base_filters=2,
            tail_filters=[3, 4],
            input_samples=243,
            sample_rate=16000,
            level=0.1,
        )
    )


def windows(count=3):
    generator = np.random.default_rng(0)
    return generator.normal(0.1, 0.3, (count, 243, 1)).astype("float32")


@pytest.mark.parametrize("pooling", ["mean", "mean_std"])
def test_the_outputs_are_statistics_of_the_stages(pooling):
    encoder = small()
    found = StageEncoder(encoder, ["bottleneck", "tail_1"], pooling)(windows(), training=False)
    expected = []
    for name in ("bottleneck", "tail_1"):
        stage = keras.Model(encoder.input, encoder.get_layer(name).output)
        values = ops.convert_to_numpy(stage(windows(), training=False))
        if encoder.data_format == "channels_first":
            values = values.transpose(0, 2, 1)
        expected += [values.mean(axis=1), values.std(axis=1)][: 2 if pooling == "mean_std" else 1]
    np.testing.assert_allclose(
        ops.convert_to_numpy(found), np.concatenate(expected, axis=1), rtol=1e-4, atol=1e-4
    )


def test_a_tagger_of_stages_knows_its_sample_rate_after_loading(tmp_path):
    stages = StageEncoder(small(), ["tail_1", "tail_2"], "mean_std")
    tagger = seed_weights(Tagger(stages, labels=["calm", "tense"]), seed=1)
    tagger.save(tmp_path / "tagger.keras")
    again = keras.models.load_model(tmp_path / "tagger.keras")
    assert (again.sample_rate, again.encoder.level) == (16000, 0.1)
    outputs = [ops.convert_to_numpy(model(windows(), training=False)) for model in (tagger, again)]
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)
    assert encoder_fingerprint(again.encoder) == encoder_fingerprint(stages)
    with pytest.raises(UserError, match="made for audio at 16000 Hz, not at 22050 Hz"):
        again.predict_tags(windows(1)[0, :, 0], 22050)


def test_what_is_refused():
    with pytest.raises(UserError, match="no stage 'tail_9'; its stages: contract_1"):
        StageEncoder(small(), ["tail_9"])
    with pytest.raises(UserError, match="named once only, not tail_1, tail_1"):
        StageEncoder(small(), ["tail_1", "tail_1"])
    with pytest.raises(ValueError, match="Received: pooling=max"):
        StageEncoder(small(), ["tail_1"], "max")
    with pytest.raises(ValueError, match=r"stages=\[\]"):
        StageEncoder(small(), [])
