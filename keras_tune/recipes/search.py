"""Search the encoder's depth, shape and training with KerasTuner, under a parameter budget.

Every trial is a short pretraining. At the end the output folder contains search.csv (all trials:
settings, score, parameters, time, memory), depths.csv and depths.png (score against decoder depth,
over seeds), pareto.csv and pareto.png (score against parameters and time), report.json, and
best.yaml, a recipe for `pretrain --config`. Without --data the demo corpus is used. A search that
was killed resumes when it is started again. For several processes or machines see docs/search.md.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
from typing import ClassVar, Literal

from keras_tune.errors import UserError
from keras_tune.machine import has_gpu
from keras_tune.recipes._cli import print_precision, run
from keras_tune.recipes._folder import demo_corpus_ahead, locked, write_report
from keras_tune.recipes._options import names_options
from keras_tune.search.space import Space
from keras_tune.storage import local_output
from keras_tune.types import (
    DEFAULT_WINDOW,
    AugmentConfig,
    ContrastBatchSize,
    Count,
    Positive,
    Precision,
    Probability,
    Repetitions,
    Samples,
    Seed,
    Width,
)

DEMO = pathlib.Path(__file__).with_name("search_demo.yaml")
DIRECTIONS = {"val_contrastive_accuracy": "max", "val_loss": "min", "val_probe": "max"}


@dataclasses.dataclass
class SearchConfig:
    """The search.

    Args:
        data: Folder written by `prepare`, or an .npz file of clips; by default the demo corpus.
        output: Folder of the search.
        tuner: How the trials are chosen.
        objective: The metric to optimize, of the last epoch.
        max_trials: The largest number of trials.
        space: The settings to search: a single value fixes a setting; a list, or min, max and log,
            gives values to search.
        parameter_budget: Trainable parameters that no encoder may exceed; null for no limit.
        budget_slack: Share of the budget that may stay unused.
        seeds: Runs of the best configuration of each depth: with 1, the trial itself; with more,
            new runs with other seeds.
        probe: Label for the objective val_probe.
        input_samples: Length of a view in samples.
        augment: The augmentations that the space does not search.
        epochs: Epochs of a trial; with hyperband those of the best trials.
        steps_per_epoch: Batches in an epoch; by default one pass over the train split.
        batch_size: Clips in a batch; each gives two views.
        mask_group: Label, such as the artist: clips with the same value are not negatives of each
            other. By default only copies of the same clip are excluded.
        projection_dim: Size of the projections.
        separate_views: Whether batch normalization treats first and second views separately.
        seed: Seed of trials, weights, order, crops and augmentations.
        precision: float32, mixed_bfloat16, mixed_float16, or auto for mixed_bfloat16 where it is
            faster on the GPU or the processor, else float32.
        distribution: Distribute batches over all devices (JAX only); by default one device.
        chief_timeout: Seconds without an answer after which a worker gives up on its chief.
        isolate: Whether each trial runs in its own process; by default if there is a GPU.
        jit_compile: Whether to compile with XLA; by default whatever is faster on the backend.
        backend: tensorflow, jax or torch; by default KERAS_BACKEND, else the first one installed.
    """

    # What may differ between a search and its continuation.
    free_on_resume: ClassVar[tuple[str, ...]] = (
        "output",
        "max_trials",
        "seeds",
        "chief_timeout",
        "isolate",
        "backend",
        "jit_compile",
    )

    data: str | None = None
    output: str = "runs/search"
    tuner: Literal["hyperband", "bayesian", "random", "grid"] = "grid"
    objective: Literal["val_contrastive_accuracy", "val_loss", "val_probe"] = (
        "val_contrastive_accuracy"
    )
    max_trials: Count = 20
    space: Space = dataclasses.field(default_factory=Space)
    parameter_budget: Positive | None = 2.4e6
    budget_slack: Probability = 0.35
    seeds: Repetitions = 1
    probe: str | None = None
    input_samples: Samples = DEFAULT_WINDOW
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    epochs: Count = 10
    steps_per_epoch: Count | None = None
    batch_size: ContrastBatchSize = 48
    mask_group: str | None = None
    projection_dim: Width = 64
    separate_views: bool = False
    seed: Seed = 42
    precision: Precision = "auto"
    distribution: Literal["data_parallel"] | None = None
    chief_timeout: Positive = 600.0
    isolate: bool | None = None
    jit_compile: bool | None = None
    backend: str | None = None


@names_options()
def main(config):
    """Run the command line; see `SearchConfig`."""
    # KerasTuner's workers share the folder of their chief, which holds the lock.
    worker = "chief" not in os.environ.get("KERASTUNER_TUNER_ID", "chief")
    with contextlib.nullcontext() if worker else locked(local_output(config.output)):
        _search(config)


def _search(config):
    _check(config)
    with demo_corpus_ahead(config):
        from keras_tune.data.dataset import open_dataset
        from keras_tune.data.demo import demo_corpus
        from keras_tune.data.shard_dataset import naming_damaged_shards
        from keras_tune.training.precision import with_precision
        from keras_tune.training.run_folder import check_unchanged, write_config

    output = local_output(config.output)
    config, reason = with_precision(config, output)
    print_precision(config.precision, reason)
    if (output / "config.yaml").exists():
        check_unchanged(output, config, config.free_on_resume)
    # Workers read the corpus of their chief; the file is written in one step.
    data = config.data or str(demo_corpus(output, config.seed))
    # This checks the settings before they are written to the folder.
    hypermodel = _hypermodel(config, open_dataset(data).info.sample_rate)
    write_config(output, config)
    tuner = _tuner(config, hypermodel)
    print("searching; each trial gets a line when it ends …", flush=True)
    streams = functools.partial(_streams, config, data)
    callbacks = functools.partial(_probe, config, data) if config.probe else None
    with naming_damaged_shards(data):
        tuner.search(streams, config.epochs, callbacks)
        if tuner.is_worker:
            return
        trials = _report_trials(tuner, config, output)
        runs = _repeat(tuner, trials, data, callbacks, config)
    best, score = _report_depths(runs, trials, config, output)
    _write_best(output / "best.yaml", _recipe(config, config.data), best, score["what"])
    opened = streams(0, 1)
    write_report(
        output,
        config,
        best={key: value for key, value in best.items() if value == value},
        score=score,
        valid_clips=opened.valid_clips,
        chance_contrastive_accuracy=opened.chance,
        trials=trials["status"].value_counts().to_dict(),
        data=str(data),
    )
    print(f"score ({config.objective}, last epoch): {score['what']}")
    print(f"best: decoder depth {best['decoder_depth']:.0f}; recipe: {output / 'best.yaml'}")


def _check(config):
    if config.objective == "val_probe" and not config.probe:
        raise UserError("--objective val_probe: needs the label of the probe, --probe")
    if config.objective == "val_loss" and config.space.is_free("temperature"):
        raise UserError(
            "--objective val_loss: losses at different temperatures cannot be compared; fix "
            "--space.temperature or use val_contrastive_accuracy"
        )


def _hypermodel(config, sample_rate):
    from keras_tune.search import TUNeHyperModel

    return TUNeHyperModel(
        config.space,
        parameter_budget=config.parameter_budget,
        budget_slack=config.budget_slack,
        input_samples=config.input_samples,
        sample_rate=sample_rate,
        augment=dataclasses.asdict(config.augment),
        projection_dim=config.projection_dim,
        separate_views=config.separate_views,
        seed=config.seed,
        precision=config.precision,
        distribution=config.distribution,
        jit_compile="auto" if config.jit_compile is None else config.jit_compile,
    )


def _tuner(config, hypermodel):
    from keras_tune.search import TUNeTuner, make_oracle

    oracle = make_oracle(
        config.tuner,
        config.objective,
        DIRECTIONS[config.objective],
        max_trials=config.max_trials,
        max_epochs=config.epochs,
        seed=config.seed,
    )
    isolated = has_gpu() if config.isolate is None else config.isolate
    # Lines must appear at once, also in a log file.
    report = functools.partial(print, flush=True)
    return TUNeTuner(
        oracle, hypermodel, config.output, isolated, report, chief_timeout=config.chief_timeout
    )


def _recipe(config, data):
    """The recipe of `pretrain` that the search varies."""
    from keras_tune.recipes.pretrain import PretrainConfig
    from keras_tune.training import ModelConfig

    shared = {field.name for field in dataclasses.fields(PretrainConfig)} & {
        field.name for field in dataclasses.fields(SearchConfig)
    }
    values = {key: getattr(config, key) for key in shared - {"data", "output"}}
    return PretrainConfig(
        data=data,
        output=str(pathlib.Path(config.output) / "best"),
        model=ModelConfig(input_samples=config.input_samples),
        **values,
    )


@names_options(clip_samples="input_samples")
def _streams(config, data, initial_epoch, epochs):
    """The batches of a trial; at the top of the module, so that another process can import it."""
    from keras_tune.data import open_dataset
    from keras_tune.training import PretrainingData

    recipe = dataclasses.replace(_recipe(config, data), epochs=epochs)
    streams = PretrainingData(open_dataset(data), recipe).streams(initial_epoch)
    if streams.valid is None:
        raise UserError(f"{data}: has no clips in the split valid, which trials are compared on")
    return streams


@names_options(label="probe")
def _probe(config, data):
    """The callback behind the objective val_probe."""
    from keras_tune.data import open_dataset
    from keras_tune.evaluation import OnlineProbe

    return [OnlineProbe.from_dataset(open_dataset(data), config.probe, every=1)]


def _report_trials(tuner, config, output):
    """Write the table of trials and the Pareto front, and stop where nothing succeeded."""
    import pandas as pd

    from keras_tune.files import write_text
    from keras_tune.search.results import draw_pareto, pareto_front, trial_table

    trials = trial_table(tuner)
    write_text(output / "search.csv", trials.to_csv(index=False))
    reason = tuner.give_up_reason()
    done = trials[trials["status"] == "COMPLETED"]
    if reason or not len(done):
        raise UserError(reason or "no trial succeeded; see search.csv")
    direction = DIRECTIONS[config.objective]
    fronts = [
        pareto_front(done, cost, direction).assign(against=cost)
        for cost in ("parameters", "seconds")
    ]
    write_text(output / "pareto.csv", pd.concat(fronts).to_csv(index=False))
    draw_pareto(output / "pareto.png", done, direction, config.objective)
    return trials


def _repeat(tuner, trials, data, callbacks, config):
    """Train the best configuration of each depth with other seeds; finished runs are kept.

    Returns a table with one row for each run. The trial itself is excluded: it was chosen for its
    high score, which is therefore too optimistic.
    """
    import pandas as pd

    from keras_tune.search.results import best_of_each_depth, outcome_row

    best = best_of_each_depth(trials, DIRECTIONS[config.objective])
    if config.seeds == 1:
        return best
    runs = []
    for trial in best["trial"]:
        for seed in range(config.seed + 1, config.seed + 1 + config.seeds):
            streams = functools.partial(_streams, dataclasses.replace(config, seed=seed), data)
            outcome = tuner.repeat(trial, seed, streams, config.epochs, callbacks)
            runs.append({"trial": trial, "seed": seed, **outcome_row(outcome)})
    return pd.DataFrame(runs)


def _report_depths(runs, trials, config, output):
    """Write scores by depth; return the settings of the best depth, and its score in words."""
    from keras_tune.files import write_text
    from keras_tune.search.results import draw_depths, scores_by_depth

    write_text(output / "runs.csv", runs.to_csv(index=False))
    depths = scores_by_depth(runs)
    write_text(output / "depths.csv", depths.to_csv())
    draw_depths(output / "depths.png", runs, config.objective)
    mean = depths["mean"]
    depth = mean.idxmax() if DIRECTIONS[config.objective] == "max" else mean.idxmin()
    own = runs[runs["decoder_depth"] == depth]
    row = {key: getattr(v, "item", lambda v=v: v)() for key, v in own.iloc[0].items()}
    trial = trials[trials["trial"] == row["trial"]].iloc[0]
    if config.seeds == 1:
        what = f"{row['score']:.4f}, one run, chosen for this score, so too optimistic"
    else:
        what = f"mean {mean[depth]:.4f} of {len(own)} new runs, which were not used to choose the "
        what += "trial"
    score = {
        "objective": config.objective,
        "epoch": "last",
        "what": what,
        "mean": float(mean[depth]),
        "seeds": own["seed"].tolist(),
        "runs": own["score"].tolist(),
        "chosen_trial": float(trial["score"]),
    }
    return row, score


def _write_best(path, recipe, best, score):
    """Write the best configuration as a recipe of `pretrain`."""
    import yaml

    from keras_tune.files import write_text

    depth = int(best["decoder_depth"])
    content = dataclasses.asdict(recipe)
    content["model"] = {
        "preset": "tune_plus" if depth else "clmr",
        "decoder_depth": depth,
        "base_filters": int(best["base_filters"]),
        "extra_links": bool(best["extra_links"]),
        "input_samples": recipe.model.input_samples,
    }
    if depth:
        content["model"]["contraction_depth"] = int(best["contraction_depth"])
    tail = [int(width) for width in best["tail_filters"].split()]
    if tail != _preset_tail(content["model"]):
        content["model"]["tail_filters"] = tail
    for key in ("learning_rate", "temperature"):
        content[key] = float(best[key])
    for key, value in best.items():
        if key.startswith("augment/"):
            content["augment"][key.removeprefix("augment/")] = float(value)
    header = (
        f"# Found by a search: trial {best['trial']}, {best['parameters']:,.0f} parameters, "
        f"{best['epochs']:.0f} epochs.\n# Score: {score}.\n"
    )
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_text(path, header + text)


def _preset_tail(model):
    """The tail that the preset has at this width and depth."""
    from keras_tune.models import PRESETS

    sizes = (model.get(key) for key in ("base_filters", "contraction_depth", "decoder_depth"))
    return list(PRESETS[model["preset"]].arguments(*sizes)["tail_filters"])


cli = functools.partial(run, main, SearchConfig, demo=DEMO)

if __name__ == "__main__":
    cli()
