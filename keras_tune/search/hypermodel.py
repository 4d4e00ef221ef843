"""TUNe as a KerasTuner hypermodel: from hyperparameters to a compiled contrastive model."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import keras
import keras_tuner
from keras_tuner.errors import FailedTrialError

from keras_tune.models.parameter_budget import count_parameters, largest_width, tail_widths
from keras_tune.search.space import Range, Space, as_list
from keras_tune.types import (
    DEFAULT_SAMPLE_RATE,
    DEFAULT_WINDOW,
    AugmentConfig,
    Positive,
    Probability,
    check_values,
)

if TYPE_CHECKING:
    from keras_tune.training import ContrastiveModel


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One point of a search space, and the widths that follow from it.

    Args:
        decoder_depth: Expansive stages; 0 is CLMR's SampleCNN.
        contraction_depth: Contractive stages; None at depth zero.
        tail_length: Divisions of the resolution by 3; None at depth zero.
        extra_links: Whether the tail is linked to the decoder.
        representation_dim: Size of the representation.
        base_filters: Width of the first stage.
        tail_filters: Widths of the tail.
        learning_rate: Learning rate of Adam.
        temperature: Temperature of NT-Xent.
        augment: Fields of `keras_tune.augment.AugmentConfig` that were searched.
        parameters: Trainable parameters of the encoder.

    Example:

    ```python
    import keras_tuner
    from keras_tune.search import TUNeHyperModel

    chosen = TUNeHyperModel().configuration(keras_tuner.HyperParameters())
    chosen.decoder_depth, chosen.tail_filters[-1]  # (0, 512)
    ```
    """

    decoder_depth: int
    contraction_depth: int | None
    tail_length: int | None
    extra_links: bool
    representation_dim: int
    base_filters: int
    tail_filters: tuple[int, ...]
    learning_rate: float
    temperature: float
    augment: dict[str, float]
    parameters: int


@dataclasses.dataclass(eq=False)
class TUNeHyperModel(keras_tuner.HyperModel):
    """Build compiled contrastive models from hyperparameters.

    Dtype policy, distribution and seed are set in `build`, because KerasTuner resets them before
    every trial.

    Args:
        space: `Space`. Defaults to decoder depths of 0 to 4, everything else as published.
        parameter_budget: Number of trainable parameters that no encoder may exceed. If the space
            does not set `base_filters`, each encoder is as wide as the budget allows. Defaults to
            2.4 million, about CLMR's; None for no limit, which needs `base_filters`.
        budget_slack: Share of the budget that may stay unused. Defaults to 0.35.
        input_samples: Integer, the length of a view. Defaults to 59,049.
        sample_rate: Integer, in Hz. Defaults to 22,050.
        augment: Dict of fields of `keras_tune.augment.AugmentConfig` that the space does not
            search. Defaults to the published chain.
        projection_dim: Integer, the size of the projections. Defaults to 64.
        separate_views: As in `keras_tune.training.ContrastiveModel`. Defaults to False.
        seed: Integer, the seed of weights, crops and augmentations. Defaults to 42.
        precision: Dtype policy: "float32", "mixed_bfloat16" or "mixed_float16". Defaults to
            "float32".
        distribution: "data_parallel" to distribute batches over all devices of a machine (JAX
            only). Defaults to None.
        jit_compile: As in `keras.Model.compile`. Defaults to "auto".

    Raises:
        ValueError: Neither width nor budget is given, a setting is out of its range, an
            augmentation is unknown, or the backend cannot distribute.

    Example:

    ```python
    import keras_tuner
    from keras_tune.search import Space, TUNeHyperModel

    hypermodel = TUNeHyperModel(Space(decoder_depth=[0, 2, 4]))
    model = hypermodel.build(keras_tuner.HyperParameters())
    ```
    """

    space: Space = dataclasses.field(default_factory=Space)
    parameter_budget: Positive | None = 2.4e6
    budget_slack: Probability = 0.35
    input_samples: int = DEFAULT_WINDOW
    sample_rate: int = DEFAULT_SAMPLE_RATE
    augment: Mapping[str, float] = dataclasses.field(default_factory=dict)
    projection_dim: int = 64
    separate_views: bool = False
    seed: int = 42
    precision: str = "float32"
    distribution: Literal["data_parallel"] | None = None
    jit_compile: bool | str = "auto"

    def __post_init__(self) -> None:
        super().__init__()
        self.space = self.space or Space()
        self.augment = dict(self.augment or {})
        check_values(self)
        if self.space.base_filters is None and self.parameter_budget is None:
            raise ValueError(
                "`parameter_budget` must be given if the space does not set `base_filters`. "
                "Received: parameter_budget=None"
            )
        if self.distribution and keras.backend.backend() != "jax":
            raise ValueError(
                f"`distribution` needs the JAX backend, not {keras.backend.backend()}. "
                f"Received: distribution={self.distribution}"
            )
        known = [field.name for field in dataclasses.fields(AugmentConfig)]
        for key, choice in self.space.augment.items():
            if key not in known:
                raise ValueError(
                    f"`space.augment.{key}` must be one of the settings of the augmentations: "
                    f"{', '.join(known)}. Received: space.augment.{key}={choice}"
                )

    def with_seed(self, seed: int) -> TUNeHyperModel:
        """The same hypermodel with another seed.

        Args:
            seed: Integer, as in the constructor.

        Returns:
            `TUNeHyperModel`.

        Example:

        ```python
        from keras_tune.search import TUNeHyperModel

        TUNeHyperModel(seed=1).with_seed(2).seed  # 2
        ```
        """
        # KerasTuner's hypermodels hold methods bound to themselves, which a shallow copy would
        # share.
        other = copy.deepcopy(self)
        other.seed = seed
        return other

    def declare_hyperparameters(self, hp: keras_tuner.HyperParameters) -> None:
        """Register the whole space, including its conditions.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Example:

        ```python
        import keras_tuner
        from keras_tune.search import Space, TUNeHyperModel

        hp = keras_tuner.HyperParameters()
        TUNeHyperModel(Space(decoder_depth=[0, 4])).declare_hyperparameters(hp)
        hp.values["decoder_depth"]  # 0
        ```
        """
        space = self.space
        depths = as_list(space.decoder_depth)
        _declare(hp, "decoder_depth", depths)
        with_decoder = [depth for depth in depths if depth]
        if with_decoder:
            with hp.conditional_scope("decoder_depth", with_decoder):
                _declare(hp, "tail_length", space.tail_length)
                _declare(hp, "extra_links", space.extra_links)
        for name, below in self._contractions().items():
            with hp.conditional_scope("decoder_depth", below):
                _declare(hp, name, space.contractions(max(below)))
        for key in ("representation_dim", "base_filters", "learning_rate", "temperature"):
            if getattr(space, key) is not None:
                _declare(hp, key, getattr(space, key))
        for key, choice in space.augment.items():
            _declare(hp, f"augment/{key}", choice)

    def _contractions(self):
        """Names of the hyperparameters for contraction depths, and the decoder depths they go with.

        One name if all decoders have the same choice, else a name for each choice: tuners look
        values up by name alone, and would confuse one list of values with another.
        """
        groups = {}
        for depth in as_list(self.space.decoder_depth):
            if depth:
                groups.setdefault(tuple(self.space.contractions(depth)), []).append(depth)
        if len(groups) == 1:
            return {"contraction_depth": groups.popitem()[1]}
        return {f"contraction_depth_from_{min(group)}": groups[group] for group in groups}

    def configuration(self, hp: keras_tuner.HyperParameters) -> Configuration:
        """Read a configuration from hyperparameters.

        Args:
            hp: `keras_tuner.HyperParameters`; the space is declared if it has not been yet.

        Returns:
            `Configuration`.

        Raises:
            FailedTrialError: No width fits the parameter budget, or the tail is too short.

        Example:

        ```python
        import keras_tuner
        from keras_tune.search import Space, TUNeHyperModel

        hypermodel = TUNeHyperModel(Space(decoder_depth=4))
        hypermodel.configuration(keras_tuner.HyperParameters()).base_filters  # 11
        ```
        """
        self.declare_hyperparameters(hp)
        space, values = self.space, hp.values
        depth = values["decoder_depth"]
        contraction = tail_length = None
        links = False
        if depth:
            names = [name for name, depths in self._contractions().items() if depth in depths]
            contraction = values[names[0]]
            tail_length, links = values["tail_length"], bool(values["extra_links"])
        size = values["representation_dim"]

        def tail(width):
            return tail_widths(depth, contraction, width, tail_length, size, self.input_samples)

        def count(width):
            return count_parameters(contraction, depth, width, tail(width), links)

        # Without a budget the space sets the width.
        budget = self.parameter_budget or math.inf
        try:
            width = values.get("base_filters") or largest_width(count, budget, self.budget_slack)
            parameters = count(width)
        except ValueError as error:
            raise FailedTrialError(str(error)) from error
        self._check_budget(width, parameters)
        return Configuration(
            decoder_depth=depth,
            contraction_depth=contraction,
            tail_length=tail_length,
            extra_links=links,
            representation_dim=size,
            base_filters=width,
            tail_filters=tuple(tail(width)),
            learning_rate=values["learning_rate"],
            temperature=values["temperature"],
            augment={key: values[f"augment/{key}"] for key in space.augment},
            parameters=parameters,
        )

    def _check_budget(self, width, parameters):
        if self.parameter_budget is None:
            return
        if parameters > self.parameter_budget:
            raise FailedTrialError(
                f"a width of {width} has {parameters:,} parameters, which is above the budget of "
                f"{self.parameter_budget:,.0f}"
            )

    def prepare(self) -> None:
        """Set dtype policy, distribution and seed, as every trial needs them.

        Example:

        ```python
        from keras_tune.search import TUNeHyperModel

        TUNeHyperModel(precision="mixed_bfloat16").prepare()
        keras.config.dtype_policy().name  # "mixed_bfloat16"
        ```
        """
        if self.distribution:
            keras.distribution.set_distribution(keras.distribution.DataParallel())
        keras.config.set_dtype_policy(self.precision)
        keras.utils.set_random_seed(self.seed)

    def build(self, hp: keras_tuner.HyperParameters) -> ContrastiveModel:
        """Build the compiled model of a configuration.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            A compiled `keras_tune.training.ContrastiveModel`.

        Raises:
            FailedTrialError: The configuration does not fit the view or the parameter budget.

        Example:

        ```python
        import keras_tuner
        from keras_tune.search import Space, TUNeHyperModel

        space = Space(decoder_depth=1, contraction_depth=1, tail_length=2, base_filters=2)
        hypermodel = TUNeHyperModel(space, parameter_budget=None, input_samples=243)
        hypermodel.build(keras_tuner.HyperParameters()).encoder.decoder_depth  # 1
        ```
        """
        from keras_tune.training import ModelConfig, PretrainConfig, build_model

        chosen = self.configuration(hp)
        self.prepare()
        config = PretrainConfig(
            model=ModelConfig(
                preset="tune_plus" if chosen.decoder_depth else "clmr",
                contraction_depth=chosen.contraction_depth,
                decoder_depth=chosen.decoder_depth,
                base_filters=chosen.base_filters,
                tail_filters=list(chosen.tail_filters),
                extra_links=chosen.extra_links,
                input_samples=self.input_samples,
            ),
            augment=AugmentConfig(**{**self.augment, **chosen.augment}),
            projection_dim=self.projection_dim,
            temperature=chosen.temperature,
            learning_rate=chosen.learning_rate,
            separate_views=self.separate_views,
            seed=self.seed,
            jit_compile=None if self.jit_compile == "auto" else self.jit_compile,
        )
        try:
            return build_model(config, self.sample_rate)
        except ValueError as error:
            raise FailedTrialError(str(error)) from error


def _declare(hp, name, choice):
    if isinstance(choice, Range):
        sampling = "log" if choice.log else "linear"
        hp.Float(name, choice.min, choice.max, sampling=sampling)
    elif len(values := as_list(choice)) > 1:
        if isinstance(values[0], bool):
            hp.Boolean(name, default=values[0])
        else:
            hp.Choice(name, values, ordered=True)
    else:
        hp.Fixed(name, values[0])
