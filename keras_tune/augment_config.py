"""The settings of the augmentation chain, for the library and for the command lines.

Outside `keras_tune.augment`, because command lines show these options without importing Keras.
"""

import dataclasses
from typing import Annotated

from keras_tune.types import Interval, Probability

Ratio = Annotated[float, Interval(0)]
Percent = Annotated[float, Interval(0, 100)]
Decibels = Annotated[float, Interval(-200, 200)]
Cents = Annotated[float, Interval(-12_000, 12_000)]
# No audio file has a higher sample rate.
Frequency = Annotated[float, Interval(above=0, high=1_000_000)]
Milliseconds = Annotated[float, Interval(0, 60_000)]
# Every delay from the shortest to the longest is kept in memory.
StepMilliseconds = Annotated[float, Interval(0.01, 60_000)]


@dataclasses.dataclass
class AugmentConfig:
    """The settings of the published augmentation chain; a probability of 0 leaves a step out.

    Args:
        polarity_probability: Probability of inverting the polarity.
        noise_probability: Probability of added white noise.
        min_noise_ratio: Lowest ratio of the noise's standard deviation to the waveform's.
        max_noise_ratio: Highest ratio of the noise's standard deviation to the waveform's.
        gain_probability: Probability of a gain.
        min_gain_db: Lowest gain in dB.
        max_gain_db: Highest gain in dB.
        filter_probability: Probability of a high-pass or low-pass filter, with even odds.
        min_high_pass: Lowest cutoff frequency of the high-pass in Hz.
        max_high_pass: Highest cutoff frequency of the high-pass in Hz.
        min_low_pass: Lowest cutoff frequency of the low-pass in Hz.
        max_low_pass: Highest cutoff frequency of the low-pass in Hz.
        delay_probability: Probability of an echo.
        min_delay_ms: Shortest delay in milliseconds.
        max_delay_ms: Longest delay in milliseconds.
        delay_step_ms: Distance between the possible delays in milliseconds.
        delay_volume: Factor of the echo.
        pitch_shift_probability: Probability of a pitch shift.
        min_cents: Lowest pitch shift in cents.
        max_cents: Highest pitch shift in cents.
        reverb_probability: Probability of a reverberation.
        min_reverberance: Lowest reverberance in percent.
        max_reverberance: Highest reverberance in percent.
        min_damping: Lowest damping of high frequencies in percent.
        max_damping: Highest damping of high frequencies in percent.
        min_room_size: Smallest room scale in percent.
        max_room_size: Largest room scale in percent.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021);
    Vélez Vásquez and Burgoyne, Tailed U-Net (ISMIR 2022).

    Example:

    ```python
    import dataclasses

    config = keras_tune.augment.AugmentConfig(pitch_shift_probability=0.0)
    chain = keras_tune.augment.clmr_chain(22050, seed=42, **dataclasses.asdict(config))
    ```
    """

    polarity_probability: Probability = 0.8
    noise_probability: Probability = 0.01
    min_noise_ratio: Ratio = 1e-4
    max_noise_ratio: Ratio = 1e-2
    gain_probability: Probability = 0.3
    min_gain_db: Decibels = -20.0
    max_gain_db: Decibels = -1.0
    filter_probability: Probability = 0.8
    min_high_pass: Frequency = 200.0
    max_high_pass: Frequency = 1200.0
    min_low_pass: Frequency = 2200.0
    max_low_pass: Frequency = 4000.0
    delay_probability: Probability = 0.3
    min_delay_ms: Milliseconds = 200.0
    max_delay_ms: Milliseconds = 450.0
    delay_step_ms: StepMilliseconds = 50.0
    delay_volume: Ratio = 0.5
    pitch_shift_probability: Probability = 0.6
    min_cents: Cents = -700.0
    max_cents: Cents = 700.0
    reverb_probability: Probability = 0.6
    min_reverberance: Percent = 0.0
    max_reverberance: Percent = 100.0
    min_damping: Percent = 0.0
    max_damping: Percent = 100.0
    min_room_size: Percent = 0.0
    max_room_size: Percent = 100.0
