import keras

from keras_tune.augment.cutoff_filter import CutoffFilter


@keras.saving.register_keras_serializable(package="keras_tune")
class HighPass(CutoffFilter):
    """Take away what lies below a cutoff frequency drawn for each waveform.

    The filter is a second-order Butterworth high-pass (12 dB an octave).

    Args:
        sample_rate: Sample rate of the waveforms in Hz.
        min_cutoff: Lowest cutoff frequency in Hz. Default 200.
        max_cutoff: Highest cutoff frequency in Hz. Default 1200.
        **kwargs: `probability`, `seed` and the arguments of `keras.layers.Layer`.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021),
    for the range; see `HighLowPass` for the kind of filter.

    Example:

    ```python
    filtered = HighPass(22050, seed=1)(waveforms, training=True)
    ```
    """

    passes_high = True

    def __init__(self, sample_rate, min_cutoff=200.0, max_cutoff=1200.0, *args, **kwargs):
        super().__init__(sample_rate, min_cutoff, max_cutoff, *args, **kwargs)
