import numpy as np

from keras_tune.evaluation import ClipEmbeddings, MelStatistics, embed_clips, pool_clips
from keras_tune.evaluation.pooling import own_pooling


def test_deviations_over_the_windows_of_a_clip():
    generator = np.random.default_rng(0)
    counts = [1, 4, 2]
    parts = [generator.normal(size=(count, 3)).astype("float32") for count in counts]
    order = [2, 0, 5, 3, 1, 6, 4]
    clips = ClipEmbeddings(
        ids=["a", "b", "c"],
        vectors=np.stack([part.mean(axis=0) for part in parts]),
        labels=[{}, {}, {}],
        windows=np.concatenate(parts)[order],
        owners=np.repeat(np.arange(3), counts)[order],
        crops=generator.normal(size=(3, 3)),
    )
    assert pool_clips(clips, "mean", "mean") is clips
    found = pool_clips(clips, "mean", "mean_std")
    expected = [np.concatenate([part.mean(axis=0), part.std(axis=0)]) for part in parts]
    np.testing.assert_allclose(found.vectors, expected, atol=1e-6)
    assert found.windows is found.crops is None
    assert found.take([2, 0]).ids == ["c", "a"]


def test_the_means_of_mel_statistics_are_those_of_the_frames():
    model = MelStatistics(num_mels=8, input_samples=2048)
    audio = np.random.default_rng(0).normal(0, 0.1, (2, 4096)).astype("float32")
    records = [{"id": str(k), "audio": clip, "labels": {}} for k, clip in enumerate(audio)]
    clips = embed_clips(model, records, crop_seed=0)
    assert own_pooling(model) == "mean_std"
    found = pool_clips(clips, own_pooling(model), "mean")
    assert found.vectors.shape == found.crops.shape == (2, 8)
    # The model's own first outputs are means over frames; those of clips are means over windows.
    outputs = np.asarray(model.predict_on_batch(audio.reshape(4, 2048, 1)))[:, :8]
    np.testing.assert_allclose(found.windows, outputs, atol=1e-4)
    np.testing.assert_allclose(found.vectors, outputs.reshape(2, 2, 8).mean(axis=1), atol=1e-4)
