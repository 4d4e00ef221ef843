from keras_tune.augment.chain import Chain
from keras_tune.augment.delay import Delay
from keras_tune.augment.gain import Gain
from keras_tune.augment.gaussian_noise import GaussianNoise
from keras_tune.augment.high_low_pass import HighLowPass
from keras_tune.augment.pitch_shift import PitchShift
from keras_tune.augment.polarity_inversion import PolarityInversion
from keras_tune.augment.reverb import Reverb


def clmr_chain(
    sample_rate=22050,
    seed=None,
    *,
    polarity_probability=0.8,
    noise_probability=0.01,
    min_noise_ratio=1e-4,
    max_noise_ratio=1e-2,
    gain_probability=0.3,
    min_gain_db=-20.0,
    max_gain_db=-1.0,
    filter_probability=0.8,
    min_high_pass=200.0,
    max_high_pass=1200.0,
    min_low_pass=2200.0,
    max_low_pass=4000.0,
    delay_probability=0.3,
    min_delay_ms=200.0,
    max_delay_ms=450.0,
    delay_step_ms=50.0,
    delay_volume=0.5,
    pitch_shift_probability=0.6,
    min_cents=-700.0,
    max_cents=700.0,
    reverb_probability=0.6,
    min_reverberance=0.0,
    max_reverberance=100.0,
    min_damping=0.0,
    max_damping=100.0,
    min_room_size=0.0,
    max_room_size=100.0,
):
    """Build the published augmentation chain of CLMR and TUNe, without the crop.

    Polarity inversion, noise, gain, filter, delay, pitch shift and reverb, in this order, each
    with its own probability. A probability of 0 takes a step out altogether.

    Args:
        sample_rate: Sample rate of the waveforms in Hz.
        seed: Integer seed of all draws; None takes a random one.
        polarity_probability: Probability of inverting the polarity.
        noise_probability: Probability of added white noise.
        min_noise_ratio: Lowest ratio of the noise's standard deviation to the waveform's.
        max_noise_ratio: Highest ratio of the noise's standard deviation to the waveform's.
        gain_probability: Probability of a gain.
        min_gain_db: Lowest gain in dB.
        max_gain_db: Highest gain in dB.
        filter_probability: Probability of a high-pass or low-pass filter (even odds).
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

    Returns:
        A `Chain`.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021);
    Vélez Vásquez and Burgoyne, Tailed U-Net (ISMIR 2022).

    Example:

    ```python
    chain = clmr_chain(22050, seed=42, pitch_shift_probability=0.0)
    views = chain(RandomCrop(59049, seed=42)(clips, training=True), training=True)
    ```
    """
    return Chain(
        [
            PolarityInversion(polarity_probability, name="polarity"),
            GaussianNoise(min_noise_ratio, max_noise_ratio, noise_probability, name="noise"),
            Gain(min_gain_db, max_gain_db, gain_probability, name="gain"),
            HighLowPass(
                sample_rate,
                min_high_pass,
                max_high_pass,
                min_low_pass,
                max_low_pass,
                filter_probability,
                name="filter",
            ),
            Delay(
                sample_rate,
                min_delay_ms,
                max_delay_ms,
                delay_step_ms,
                delay_volume,
                delay_probability,
                name="delay",
            ),
            PitchShift(
                min_cents,
                max_cents,
                # Frames of about 52 ms.
                frame_length=6 * round(sample_rate * 192 / 22050),
                probability=pitch_shift_probability,
                name="pitch_shift",
            ),
            Reverb(
                sample_rate,
                min_reverberance,
                max_reverberance,
                min_damping,
                max_damping,
                min_room_size,
                max_room_size,
                reverb_probability,
                name="reverb",
            ),
        ],
        seed=seed,
        name="clmr_chain",
    )
