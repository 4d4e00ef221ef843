"""Pretrain one-change variants of a recipe and score them on music that none of them has heard.

Every file of a folder of recipes is a change to `base.yaml`. For each, `pretrain` runs with both,
and the encoder is scored, frozen, in these ways (`--variants published+clmr` makes both changes):

- `tags`, `emotions`, `genre`: logistic regression (C = 0.01, standardized) on the mean over a few
  windows a track of Emotify; macro ROC-AUC of 13 tags and of the nine emotions among them, and
  accuracy of genre; five folds that share no artist, three times.
- `package`: of every test clip of the pool, whether the nearest clip of another track, by cosine of
  standardized vectors, comes from the same package; chance is below.
- `key`: accuracy over 24 keys of synthesized pieces, logistic regression.

Results land in `study.json`, one entry a variant; what is there already is not run again. Beside
the variants stand encoders that were never trained.

    python benchmarks/study.py --pool tfrecords/open --emotify tfrecords/emotify --output runs/study
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import numpy as np

EMOTIONS = (
    "amazement solemnity tenderness nostalgia calmness power joyful_activation tension sadness"
).split()
WINDOW = 59049


def windows_of(audio, count):
    """Windows of a clip, evenly spread: float32 (count, WINDOW)."""
    starts = np.linspace(0, len(audio) - WINDOW, count).astype(int)
    return np.stack([audio[start : start + WINDOW] for start in starts])


class Sets:
    """The music to score on, in memory: windows (clips, count, WINDOW) and labels."""

    def __init__(self, emotify, pool):
        from keras_tune.data import demo_clips, read_records

        self.emotify = read_emotify(emotify)
        held_out = (r for split in ("valid", "test") for r in read_records(pool, split))
        self.pool = _read(held_out, 3)
        audio, table = demo_clips("train", 720, seconds=6.0, seed=5)
        self.key = np.stack([windows_of(clip, 2) for clip in audio]), table["key"].tolist()


def read_emotify(path):
    """Six windows of each track of Emotify (tracks, 6, WINDOW), and the labels."""
    from keras_tune.data import read_records

    splits = ("train", "valid", "test")
    return _read((record for split in splits for record in read_records(path, split)), 6)


def _read(records, count):
    windows, labels = [], []
    for record in records:
        if len(record["audio"]) >= WINDOW:
            windows.append(windows_of(record["audio"], count).astype("float16"))
            labels.append(record["labels"])
    return np.stack(windows), labels


def encoder_function(encoder, finish=None, stages=()):
    """A function from windows (clips, count, WINDOW) to vectors (clips, count, d)."""
    import keras

    from keras_tune.serving import fold_batch_norm

    model = encoder
    if finish is None:
        model = fold_batch_norm(encoder)
        if stages:
            pool = keras.layers.GlobalAveragePooling1D(data_format=encoder.data_format)
            outputs = [pool(model.get_layer(name).output) for name in stages]
            model = keras.Model(model.input, keras.layers.Concatenate()(outputs))

    def embed(windows):
        clips, count = windows.shape[:2]
        flat = windows.reshape(-1, WINDOW)
        parts = [
            model.predict_on_batch(flat[at : at + 32, :, None].astype("float32"))
            for at in range(0, len(flat), 32)
        ]
        return np.concatenate(parts).reshape(clips, count, -1)

    return embed


def mean(vectors, finish=None):
    """Vectors of clips, the mean over windows."""
    vectors = vectors.mean(axis=1)
    return vectors if finish is None else finish(vectors)


def mean_and_deviation(vectors):
    """Vectors of clips, mean and deviation over windows."""
    return np.concatenate([vectors.mean(axis=1), vectors.std(axis=1)], axis=-1)


def scores(sets, embed, pool=mean):
    """Every score of an encoder, as a dict of floats."""
    windows, labels = sets.emotify
    vectors, of = pool(embed(windows)), targets(labels)
    found = {"tags": [], "emotions": [], "genre": []}
    for seed in range(3):
        predicted = folds(vectors, *of, seed)
        found["tags"].append(predicted[0])
        found["emotions"].append(predicted[1])
        found["genre"].append(predicted[2])
    result = {name: float(np.mean(values)) for name, values in found.items()}
    windows, labels = sets.pool
    result["package"] = retrieval(
        pool(embed(windows)),
        np.array([row["package"] for row in labels]),
        np.array([row["song"] for row in labels]),
    )
    windows, keys = sets.key
    result["key"] = key_accuracy(pool(embed(windows)), np.array(keys))
    return result


def targets(labels):
    """Of the tracks of Emotify: 13 tags (tracks, 13), genres and artists."""
    genres = np.array([row["genre"] for row in labels])
    emotions = np.array([[row[name] for name in EMOTIONS] for row in labels]) >= 0.3
    tags = np.concatenate([genres[:, None] == np.unique(genres), emotions], axis=1)
    return tags, genres, np.array([row["artist"] for row in labels])


def regression():
    """The probe."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))


def folds(vectors, tags, genres, artists, seed, tested=None):
    """ROC-AUC of the 13 tags and of the nine emotions, and accuracy of genre.

    `tested` are the vectors of the test folds, by default those that are trained on.
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold

    tested = vectors if tested is None else tested
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    areas, hits = [], []
    for train, test in splitter.split(vectors, genres, artists):
        hits.append(regression().fit(vectors[train], genres[train]).predict(tested[test]))
        hits[-1] = hits[-1] == genres[test]
        row = []
        for tag in tags.T:
            if tag[train].all() or not tag[train].any() or len(set(tag[test])) < 2:
                row.append(np.nan)
                continue
            probe = regression().fit(vectors[train], tag[train])
            row.append(roc_auc_score(tag[test], probe.decision_function(tested[test])))
        areas.append(row)
    areas = np.nanmean(areas, axis=0)
    return areas.mean(), areas[-len(EMOTIONS) :].mean(), np.concatenate(hits).mean()


def retrieval(vectors, packages, tracks):
    """How often the nearest clip of another track is of the same package."""
    vectors = (vectors - vectors.mean(axis=0)) / np.maximum(vectors.std(axis=0), 1e-9)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = vectors @ vectors.T
    similarity[tracks[:, None] == tracks] = -np.inf
    # A package of one track has nothing to be found.
    several = np.array([len(set(tracks[packages == name])) > 1 for name in packages])
    return float(np.mean((packages[similarity.argmax(axis=1)] == packages)[several]))


def key_accuracy(vectors, keys):
    """Accuracy over keys in three folds."""
    from sklearn.model_selection import StratifiedKFold

    hits = []
    for train, test in StratifiedKFold(3, shuffle=True, random_state=0).split(vectors, keys):
        hits.append(regression().fit(vectors[train], keys[train]).predict(vectors[test]))
        hits[-1] = hits[-1] == keys[test]
    return float(np.concatenate(hits).mean())


def baselines(sets, windows_of_train):
    """Scores of what was never trained on music, by name."""
    from keras_tune.evaluation import MelStatistics
    from keras_tune.evaluation.baselines import untrained_copy
    from keras_tune.models import TUNe, estimate_batch_norm

    mel = MelStatistics()
    embed = encoder_function(mel, finish=mel.finish)
    yield "mel, mean and deviation", scores(sets, embed, lambda v: mean(v, mel.finish))
    plain = untrained_copy(TUNe.from_preset("tune_plus", load_weights=False))
    yield "untrained", scores(sets, encoder_function(plain))
    fair = untrained_copy(TUNe.from_preset("tune_plus", load_weights=False, level=0.1))
    estimate_batch_norm(fair, windows_of_train)
    yield "untrained, level, batch norm estimated", scores(sets, encoder_function(fair))


def train_windows(pool, count=256):
    """Windows of the pool's train split, in batches of 32."""
    from keras_tune.data import read_clips

    stream = read_clips(pool, "train", clip_samples=WINDOW, batch_size=32, seed=0)
    for batch in stream.take(count // 32):
        yield batch["audio"].numpy()[..., None].astype("float32") / 32768


def pretrain(base, changes, pool, output):
    """Run the command; seconds, or what there was to show of an earlier run."""
    command = [sys.executable, "-m", "keras_tune.recipes.pretrain", "--config", str(base)]
    for change in changes:
        command += ["--config", str(change)]
    command += ["--data", str(pool), "--output", str(output)]
    if (output / "model.keras").exists():
        command.append("--resume")
    started = time.monotonic()
    with open(output.with_suffix(".log"), "a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    return time.monotonic() - started


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", required=True)
    parser.add_argument("--emotify", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--recipes", type=pathlib.Path, default=pathlib.Path("recipes/study"))
    parser.add_argument("--variants", nargs="*", help="names of files, or NAME+NAME; default: all")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "study.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    base = arguments.recipes / "base.yaml"
    names = arguments.variants or [
        "base",
        *sorted(f.stem for f in arguments.recipes.glob("*.yaml") if f != base),
    ]
    sets = None

    def keep(name, found):
        results[name] = found
        path.write_text(json.dumps(results, indent=2) + "\n")
        print(name, {key: round(value, 3) for key, value in found.items()}, flush=True)

    for name in names:
        folder = arguments.output / name.replace("/", "_")
        parts = [] if name == "base" else name.split("+")
        changes = [arguments.recipes / f"{part}.yaml" for part in parts]
        if name in results:
            continue
        seconds = pretrain(base, changes, arguments.pool, folder)
        if sets is None:
            sets = Sets(arguments.emotify, arguments.pool)
        if "untrained" not in results:
            for baseline, found in baselines(sets, train_windows(arguments.pool)):
                keep(baseline, found)
        import keras

        encoder = keras.models.load_model(folder / "encoder.keras")
        report = json.loads((folder / "report.json").read_text())["final"]
        trained = {
            "accuracy": report["val_contrastive_accuracy"],
            "mel_accuracy": report["val_mel_accuracy"],
            "rank": report["val_effective_rank"],
            "seconds": seconds,
        }
        if encoder.input_samples != WINDOW:
            config = {**encoder.get_config(), "input_samples": WINDOW}
            weights = encoder.get_weights()
            encoder = type(encoder).from_config(config)
            encoder.set_weights(weights)
        embed = encoder_function(encoder)
        keep(name, {**scores(sets, embed), **trained})
        from keras_tune.models import estimate_pca, with_pooled_stages

        pooled = with_pooled_stages(encoder)
        estimate_pca(pooled, train_windows(arguments.pool, 2048))
        keep(f"{name}, PCA of the last four stages", scores(sets, encoder_function(pooled)))
        if name == "base":
            keep("base, mean and deviation", scores(sets, embed, mean_and_deviation))
            stages = encoder.stage_names[-4:]
            keep("base, last four stages", scores(sets, encoder_function(encoder, None, stages)))


if __name__ == "__main__":
    main()
