"""Options of the smallest pretraining run on the command line that has everything."""

# Crops of nine tenths of a second.
SMALL = [
    "--model.preset=tune_plus_32",
    "--model.base_filters=2",
    "--model.input_samples=19683",
    "--augment.pitch_shift_probability=0",
    "--augment.reverb_probability=0",
    "--batch_size=4",
]
