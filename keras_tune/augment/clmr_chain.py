from keras_tune.augment.compose import Compose
from keras_tune.augment.delay import Delay
from keras_tune.augment.filters import HighLowPass
from keras_tune.augment.gain import Gain
from keras_tune.augment.gaussian_noise import GaussianNoise
from keras_tune.augment.pitch_shift import PitchShift
from keras_tune.augment.polarity_inversion import PolarityInversion
from keras_tune.augment.reverb import Reverb
from keras_tune.types import DEFAULT_SAMPLE_RATE, AugmentConfig


def clmr_chain(
    sample_rate: int = DEFAULT_SAMPLE_RATE, seed: int | None = None, **settings: float
) -> Compose:
    """Build the published augmentation chain of CLMR and TUNe, without the crop.

    Polarity inversion, noise, gain, filter, delay, pitch shift and reverb, in this order, each
    with its own probability. A probability of 0 leaves a step out entirely.

    Args:
        sample_rate: Integer, the sample rate of the waveforms in Hz. Defaults to 22,050.
        seed: Integer, the seed of all draws, or None for a random one. Defaults to None.
        **settings: Any fields of `keras_tune.augment.AugmentConfig`, such as `gain_probability` or
            `max_cents`. Default to the published values.

    Returns:
        A `Compose`.

    Raises:
        TypeError: If there is no such setting.
        ValueError: If a setting is out of range.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021);
    Vélez Vásquez and Burgoyne, Tailed U-Net (ISMIR 2022).

    Example:

    ```python
    from keras_tune.augment import RandomCrop, clmr_chain

    clips = np.random.normal(0, 0.1, (4, 66150))
    chain = clmr_chain(22050, seed=42, pitch_shift_probability=0.0)
    views = chain(RandomCrop(59049, seed=42)(clips, training=True), training=True)
    ```
    """
    config = AugmentConfig(**settings)
    return Compose(
        [
            PolarityInversion(config.polarity_probability, name="polarity"),
            GaussianNoise(
                config.min_noise_ratio,
                config.max_noise_ratio,
                config.noise_probability,
                name="noise",
            ),
            Gain(config.min_gain_db, config.max_gain_db, config.gain_probability, name="gain"),
            HighLowPass(
                sample_rate,
                config.min_high_pass,
                config.max_high_pass,
                config.min_low_pass,
                config.max_low_pass,
                config.filter_probability,
                name="filter",
            ),
            Delay(
                sample_rate,
                config.min_delay_ms,
                config.max_delay_ms,
                config.delay_step_ms,
                config.delay_volume,
                config.delay_probability,
                name="delay",
            ),
            PitchShift(
                config.min_cents,
                config.max_cents,
                # Frames of about 52 ms.
                frame_length=6 * round(sample_rate * 192 / 22050),
                probability=config.pitch_shift_probability,
                name="pitch_shift",
            ),
            Reverb(
                sample_rate,
                config.min_reverberance,
                config.max_reverberance,
                config.min_damping,
                config.max_damping,
                config.min_room_size,
                config.max_room_size,
                config.reverb_probability,
                name="reverb",
            ),
        ],
        seed=seed,
        name="clmr_chain",
    )
