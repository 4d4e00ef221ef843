"""Compare the vectors of two encoders that are to share one space, on Emotify.

    python benchmarks/shared_space.py --emotify tfrecords/emotify

Reads six windows of each track, as `study.py` does, and prints

- the windows that each encoder computes in a second,
- the share of the variance of the first encoder's outputs that the second explains, and the mean
  cosine between both, for windows and for tracks,
- for how many tracks the nearest vector of the first encoder is that of the same track,
- the scores of a regression that is trained on the first encoder's vectors, on the test folds of
  either: macro ROC-AUC of 13 tags, and accuracy of genre.
"""

import argparse
import time

import numpy as np
import study

from keras_tune.models import TUNe


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--emotify", required=True)
    parser.add_argument("--encoders", nargs=2, default=["tune_plus_open", "tune_plus_64_open"])
    chosen = parser.parse_args()
    windows, labels = study.read_emotify(chosen.emotify)
    both = []
    for name in chosen.encoders:
        embed = study.encoder_function(TUNe.from_preset(name))
        embed(windows[:4])
        started = time.perf_counter()
        both.append(embed(windows))
        seconds = time.perf_counter() - started
        print(f"{name}: {np.prod(windows.shape[:2]) / seconds:.0f} windows/s")
    compare("windows", *(vectors.reshape(-1, vectors.shape[-1]) for vectors in both))
    first, second = (vectors.mean(axis=1) for vectors in both)
    compare("tracks", first, second)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (first, second)]
    nearest = (unit[1] @ unit[0].T).argmax(axis=1)
    print(f"nearest is the same track: {np.sum(nearest == np.arange(len(first)))} of {len(first)}")
    for name, vectors in zip(chosen.encoders, (first, second), strict=True):
        found = [study.folds(first, *study.targets(labels), seed, vectors) for seed in range(3)]
        tags, _, genre = np.mean(found, axis=0)
        print(f"trained on {chosen.encoders[0]}, {name}: tags {tags:.3f}, genre {genre:.3f}")


def compare(what, first, second):
    """Print the variance of the first vectors that the second explain, and the mean cosine."""
    rest = np.sum((first - second) ** 2) / np.sum((first - first.mean(axis=0)) ** 2)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosine = np.mean(np.sum(first * second, axis=1) / norms)
    print(f"{what}: {1 - rest:.3f} of the variance, cosine {cosine:.3f}")


if __name__ == "__main__":
    main()
