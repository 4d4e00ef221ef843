import keras
import numpy as np
import pytest
from keras import ops
from seeded import seed_weights

from keras_tune.augment import Compose, Gain, PolarityInversion
from keras_tune.losses import NTXent, covariance_loss, supervised_contrastive, variance_loss
from keras_tune.models import TUNe
from keras_tune.training import ContrastiveModel

SAMPLES = 243


def small_encoder(**arguments):
    return TUNe(
        contraction_depth=2,
        decoder_depth=2,
        base_filters=3,
        tail_filters=[6, 8, 16],
        input_samples=SAMPLES,
        **arguments,
    )


def clips(count=8, samples=2 * SAMPLES, seed=0):
    return np.random.default_rng(seed).normal(0, 0.3, (count, samples)).astype("float32")


def pairs(count=8, seed=0):
    return clips(2 * count, SAMPLES, seed).reshape(count, 2, SAMPLES)


def test_pairs_are_taken_as_they_are():
    model = ContrastiveModel(small_encoder())
    x = pairs()
    projections = ops.convert_to_numpy(model(x))
    assert projections.shape == (8, 2, 64)
    for view in (0, 1):
        representation = model.encoder(x[:, view, :, None])
        expected = ops.convert_to_numpy(model.projector(representation))
        np.testing.assert_allclose(projections[:, view], expected, rtol=1e-4, atol=1e-6)


def test_the_loss_is_nt_xent_of_the_projections():
    model = ContrastiveModel(small_encoder(), temperature=0.2)
    model.compile("adam")
    x = pairs()
    y = model(x)
    found = model.evaluate(x, batch_size=8, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(float(NTXent(0.2)(y[:, 0], y[:, 1])), rel=1e-5)


def test_metrics_against_their_definitions():
    model = ContrastiveModel(small_encoder(), projection_dim=8)
    model.compile("adam")
    x = pairs(6)
    found = model.evaluate(x, batch_size=6, verbose=0, return_dict=True)
    z = ops.convert_to_numpy(model(x)).astype("float64")
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    flat = z.transpose(1, 0, 2).reshape(12, 8)
    distances = ((flat[:, None] - flat[None]) ** 2).sum(-1)
    first = 0
    for anchor in range(12):
        others = [k for k in range(12) if k != anchor]
        first += min(others, key=lambda k: distances[anchor, k]) == (anchor + 6) % 12
    off_diagonal = ~np.eye(12, dtype=bool)
    assert found["contrastive_accuracy"] == pytest.approx(first / 12)
    assert found["alignment"] == pytest.approx(((z[:, 0] - z[:, 1]) ** 2).sum(-1).mean(), rel=1e-4)
    assert found["uniformity"] == pytest.approx(
        np.log(np.exp(-2 * distances[off_diagonal]).mean()), rel=1e-3
    )
    assert found["embedding_std"] == pytest.approx(flat.std(axis=0).mean() * np.sqrt(8), rel=1e-4)


def test_a_smaller_last_batch_counts_for_less():
    model = ContrastiveModel(small_encoder(), projection_dim=8)
    model.compile("adam")
    # Of a single clip, the positive is the only candidate, so it always ranks first.
    x = pairs(5)
    together, large, small = (
        model.evaluate(part, batch_size=4, verbose=0, return_dict=True)
        for part in (x, x[:4], x[4:])
    )
    assert small["contrastive_accuracy"] == 1.0
    for name, value in together.items():
        assert value == pytest.approx((4 * large[name] + small[name]) / 5, rel=1e-5, abs=1e-6)


def test_groups_and_weights_against_their_definitions():
    model = ContrastiveModel(small_encoder(), projection_dim=8, temperature=0.3)
    model.compile("adam", jit_compile=False)
    x = pairs(6)
    groups = np.array([5, 5, 2**30, 7, 2**30 + 1, 5], "int32")
    weights = np.array([1, 2, 0, 0.5, 1, 1.5], "float32")
    batch = {"audio": x, "group": groups, "weight": weights}
    found = model.evaluate(batch, batch_size=6, verbose=0, return_dict=True)
    plain = model.evaluate(x, batch_size=6, verbose=0, return_dict=True)
    z = ops.convert_to_numpy(model(x)).astype("float64")
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    first, losses = np.zeros(6), np.zeros(6)
    for clip in range(6):
        for view in (0, 1):
            anchor, positive = z[clip, view], z[clip, 1 - view]
            others = [z[k, v] for k in range(6) if groups[k] != groups[clip] for v in (0, 1)]
            first[clip] += max(anchor @ other for other in others) < anchor @ positive
            terms = np.exp([anchor @ other / 0.3 for other in [positive, *others]])
            losses[clip] -= np.log(terms[0] / terms.sum())
    distances = ((z[:, 0] - z[:, 1]) ** 2).sum(-1)
    assert found["contrastive_accuracy"] == pytest.approx((weights * first / 2).mean())
    assert found["loss"] == pytest.approx((weights * losses / 2).mean(), rel=1e-5)
    assert found["alignment"] == pytest.approx((weights * distances).mean(), rel=1e-4)
    for name in ("uniformity", "embedding_std"):
        assert found[name] == pytest.approx(plain[name], rel=1e-6)
    assert model.predict(batch, verbose=0).shape == (6, 2, 8)


def test_groups_keep_copies_of_clips_from_being_negatives_in_training():

    def trained(batch):
        model = seed_weights(ContrastiveModel(small_encoder(), projection_dim=8))
        model.compile(keras.optimizers.SGD(0.1))
        losses = [float(model.train_on_batch(batch, return_dict=True)["loss"]) for _ in range(2)]
        return losses, model.get_weights()

    x = pairs(4)
    once, weights = trained(x)
    # Each clip in a group of its own: nothing is different.
    same, again = trained({"audio": x, "group": np.arange(4, dtype="int32")})
    assert same == pytest.approx(once, rel=1e-6)
    for one, two in zip(weights, again, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)
    groups = np.arange(8, dtype="int32") % 4
    twice, _ = trained({"audio": np.concatenate([x, x]), "group": groups})
    unmasked, _ = trained(np.concatenate([x, x]))
    # All negatives come twice, and the positive once: between the two losses.
    assert once[0] < twice[0] < unmasked[0] - 0.05


def test_a_collapse_is_seen():
    model = ContrastiveModel(small_encoder())
    model.compile("adam")
    output = model.projector.layers[-1]
    output.set_weights([np.zeros_like(output.get_weights()[0])])
    found = model.evaluate(pairs(), batch_size=8, verbose=0, return_dict=True)
    assert found["embedding_std"] == 0
    assert found["contrastive_accuracy"] == 0
    assert found["loss"] == pytest.approx(np.log(15), rel=1e-5)


def test_clips_are_cropped_twice_and_differently():
    model = ContrastiveModel(small_encoder(), seed=1)
    x = np.tile(np.arange(1000, dtype="float32") / 1000, (4, 1))
    views = ops.convert_to_numpy(model.make_views(x, training=True)).reshape(4, 2, SAMPLES)
    starts = np.round(views[:, :, 0] * 1000).astype(int)
    for row in range(4):
        for view in range(2):
            start = starts[row, view]
            np.testing.assert_array_equal(views[row, view], x[row, start : start + SAMPLES])
    assert len(set(starts.ravel())) > 4
    again = ops.convert_to_numpy(model.make_views(x, training=True)).reshape(4, 2, SAMPLES)
    assert (again != views).any()
    fixed = [ops.convert_to_numpy(model.make_views(x)) for _ in range(2)]
    np.testing.assert_array_equal(*fixed)


def test_only_training_augments_and_reseeding_repeats_it():
    model = ContrastiveModel(small_encoder(), augmenter=Compose([PolarityInversion(0.5)], seed=3))
    x = pairs(16)
    plain = x.reshape(32, SAMPLES)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.make_views(x)), plain)
    model.reseed(5, 2)
    first = ops.convert_to_numpy(model.make_views(x, training=True))
    second = ops.convert_to_numpy(model.make_views(x, training=True))
    model.reseed(5, 2)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.make_views(x, training=True)), first)
    signs = first[:, 0] / plain[:, 0]
    assert set(signs.round(5)) == {-1.0, 1.0}
    assert (first != second).any()


def test_all_forms_of_input_mean_the_same():
    def fresh():
        model = seed_weights(ContrastiveModel(small_encoder()))
        model.compile("adam")
        return model

    x = (clips(4) * 32767).astype("int16")
    expected = fresh().evaluate(x.astype("float32") / 32768, batch_size=4, verbose=0)
    forms = [(x,), ({"audio": x, "labels": np.zeros((4, 2))},), (x, np.arange(4))]
    for form in forms:
        found = fresh().evaluate(*form, batch_size=4, verbose=0)
        assert found == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="'audio'.*sound"):
        fresh().evaluate({"sound": x}, batch_size=4, verbose=0)
    for wrong in (x[..., None], np.stack([x] * 3, axis=1)):
        with pytest.raises(ValueError, match=r"\(batch, 2, samples\).*Received: shape"):
            fresh().make_views(wrong)


def test_tf_data_feeds_fit():
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices((clips(8), np.arange(8))).batch(4)
    model = ContrastiveModel(small_encoder())
    model.compile("adam")
    history = model.fit(dataset, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert int(model.optimizer.iterations) == 2


def test_training_learns_to_match_views():
    model = seed_weights(ContrastiveModel(small_encoder(), seed=0))
    model.compile(keras.optimizers.Adam(3e-3))
    time = np.arange(4 * SAMPLES) / 22050
    tones = [np.sin(2 * np.pi * f * time) * 0.5 for f in np.geomspace(200, 8000, 16)]
    x = np.stack(tones).astype("float32")
    history = model.fit(x, batch_size=16, epochs=30, verbose=0).history
    assert np.mean(history["loss"][-3:]) < np.mean(history["loss"][:3]) - 0.5
    assert np.mean(history["contrastive_accuracy"][-5:]) > 5 / 31


@pytest.mark.parametrize("separate", [False, True])
def test_batch_norm_over_views_together_or_apart(separate):
    model = seed_weights(ContrastiveModel(small_encoder(), separate_views=separate))
    x = pairs()
    # Views of very different loudness: statistics over both are unlike those of either.
    x[:, 1] *= 10
    if separate:
        halves = [model.project(ops.convert_to_tensor(x[:, k]), training=True) for k in (0, 1)]
        expected = np.stack([ops.convert_to_numpy(half) for half in halves], axis=1)
    else:
        both = model.project(ops.convert_to_tensor(x.reshape(16, SAMPLES)), training=True)
        expected = ops.convert_to_numpy(both).reshape(8, 2, 64)
    found = ops.convert_to_numpy(model(x, training=True))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    other = ContrastiveModel(model.encoder, separate_views=not separate)
    other.projector.set_weights(model.projector.get_weights())
    assert np.abs(ops.convert_to_numpy(other(x, training=True)) - found).max() > 0.01


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_or_not_the_loss_is_the_same(jit_compile):
    if jit_compile and keras.backend.backend() == "torch":
        pytest.skip("torch is run eagerly")
    model = seed_weights(ContrastiveModel(small_encoder()))
    model.compile(jit_compile=jit_compile, run_eagerly=not jit_compile)
    losses = [model.train_on_batch(pairs(seed=k), return_dict=True)["loss"] for k in range(3)]
    assert all(np.isfinite(losses))
    reference = seed_weights(ContrastiveModel(small_encoder()))
    y = reference(pairs(seed=0), training=True)
    assert float(losses[0]) == pytest.approx(float(NTXent()(y[:, 0], y[:, 1])), rel=1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = ContrastiveModel(small_encoder(), augmenter=Compose([Gain()], seed=0))
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile("adam")
    history = model.fit(clips(16), batch_size=8, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert all(v.dtype == "float32" for v in model.encoder.trainable_variables)


def test_a_saved_model_goes_on_where_it_stopped(tmp_path):
    chain = Compose([PolarityInversion(0.5), Gain(probability=0.5)], seed=1)
    whole = seed_weights(ContrastiveModel(small_encoder(), augmenter=chain, seed=1))
    whole.compile(keras.optimizers.Adam(1e-2))

    def train(model, epochs):
        for epoch in epochs:
            # The state of the random draws is not part of the file; this sets it.
            model.reseed(7, epoch)
            for step in range(2):
                model.train_on_batch(clips(seed=10 * epoch + step))

    train(whole, [0])
    whole.save(tmp_path / "model.keras")
    resumed = keras.models.load_model(tmp_path / "model.keras")
    assert int(resumed.optimizer.iterations) == 2
    train(whole, [1, 2])
    train(resumed, [1, 2])
    for one, two in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_crop_length_must_be_known():
    encoder = TUNe(base_filters=2, tail_filters=[4], input_samples=None)
    with pytest.raises(ValueError, match="crop_samples"):
        ContrastiveModel(encoder)
    assert ContrastiveModel(encoder, crop_samples=SAMPLES).crop_samples == SAMPLES


def test_hidden_layers_and_batch_norm_of_the_head():
    model = ContrastiveModel(small_encoder(), projection_layers=2, projection_batch_norm=True)
    kinds = [type(layer).__name__ for layer in model.projector.layers]
    assert kinds == ["Dense", "BatchNormalization", "ReLU"] * 2 + ["Dense"]
    before = ops.convert_to_numpy(model.projector.layers[1].moving_mean)
    model(clips(), training=True)
    assert np.abs(ops.convert_to_numpy(model.projector.layers[1].moving_mean) - before).max() > 0


def test_variance_and_covariance_are_added_to_the_loss():
    model = ContrastiveModel(small_encoder(), variance_weight=3.0, covariance_weight=0.5)
    model.compile("adam")
    x = pairs()
    first, second = np.moveaxis(ops.convert_to_numpy(model(x)), 1, 0)
    terms = [NTXent()(first, second)]
    for z in (first, second):
        terms += [3.0 * variance_loss(z), 0.5 * covariance_loss(z)]
    found = model.evaluate(x, batch_size=8, verbose=0, return_dict=True)
    expected = sum(float(ops.convert_to_numpy(term)) for term in terms)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-4)


def test_clips_of_a_group_attract_one_another_where_asked_for():
    model = ContrastiveModel(small_encoder(), group_weight=2.0)
    model.compile("adam")
    x = pairs()
    groups = np.arange(len(x), dtype="int32") // 2
    first, second = np.moveaxis(ops.convert_to_numpy(model(x)), 1, 0)
    terms = (
        NTXent()(first, second, groups=groups),
        2.0 * ops.mean(supervised_contrastive(first, second, groups)),
    )
    batch = {"audio": x, "group": groups}
    found = model.evaluate(batch, batch_size=len(x), verbose=0, return_dict=True)
    expected = sum(float(ops.convert_to_numpy(term)) for term in terms)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-4)


def test_the_acoustic_task_is_learned_and_kept(tmp_path):
    """Tones of different pitch: the representation learns what the features say."""
    encoder = TUNe(1, 1, base_filters=8, tail_filters=[16, 32], input_samples=4096)
    model = ContrastiveModel(encoder, acoustic_weight=2.0, seed=1)
    model.compile(keras.optimizers.Adam(3e-3))
    pitch = np.random.default_rng(0).uniform(200, 3000, (16, 1))
    x = np.sin(2 * np.pi * pitch * np.arange(6000) / 22050).astype("float32")
    model(x, training=True)
    assert len(model.losses) == 1
    before = float(ops.convert_to_numpy(model.losses[0]))
    model.fit(x, batch_size=16, epochs=25, verbose=0)
    model(x, training=True)
    after = float(ops.convert_to_numpy(model.losses[0]))
    assert after < 0.7 * before
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for a, b in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
    # It is a task of training alone.
    model(x)
    assert not model.losses


def test_the_acoustic_task_does_not_go_with_micro_batches():
    with pytest.raises(ValueError, match="acoustic_weight"):
        ContrastiveModel(small_encoder(), acoustic_weight=1.0, micro_batch=2)
