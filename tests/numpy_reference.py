"""The published encoders in plain NumPy, in the terms of their own tensor names.

Nothing of `keras_tune` computes here: tensors go by PyTorch's names and layouts, signals are
(batch, channels, time), and the arithmetic is float64. Run as a script, this module writes the
outputs under `interop/golden_small` again; they change only where the published system was misread.
"""

import pathlib
import re
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent / "interop" / "golden_small"
SAMPLES = 59049


def convolution(x, weight, bias, stride=1, padding=1):
    """PyTorch's Conv1d; weight is (out, in, kernel)."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding)))
    length = (x.shape[-1] - weight.shape[-1]) // stride + 1
    taps = range(weight.shape[-1])
    y = sum(weight[:, :, k] @ x[:, :, k : k + stride * (length - 1) + 1 : stride] for k in taps)
    return y + bias[:, None]


def transposed_convolution(x, weight, bias):
    """PyTorch's ConvTranspose1d with stride = kernel size; weight is (in, out, kernel)."""
    taps = [weight[:, :, k].T @ x for k in range(weight.shape[-1])]
    return np.stack(taps, axis=-1).reshape(x.shape[0], weight.shape[1], -1) + bias[:, None]


def normalization(x, weight, bias, mean, variance):
    """PyTorch's BatchNorm1d in evaluation."""
    scale = weight / np.sqrt(variance + 1e-5)
    return x * scale[:, None] + (bias - mean * scale)[:, None]


def pool(x):
    """PyTorch's MaxPool1d(3)."""
    length = x.shape[-1] // 3
    return x[..., : 3 * length].reshape(*x.shape[:-1], length, 3).max(axis=-1)


def block(state, name, x, **options):
    """Convolution, normalization, ReLU."""
    x = convolution(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"], **options)
    statistics = ("weight", "bias", "running_mean", "running_var")
    return np.maximum(normalization(x, *(state[f"{name}.1.{s}"] for s in statistics)), 0)


def sample_cnn(state, name, x):
    """CLMR's encoder."""
    last = max(int(n[len(name) + 1 :].split(".")[0]) for n in state if n.startswith(name + "."))
    x = block(state, f"{name}.0", x, stride=3, padding=0)
    for index in range(1, last):
        x = pool(block(state, f"{name}.{index}", x))
    return block(state, f"{name}.{last}", x)


def features(state, x):
    """The last block's output: (batch, channels, steps) from (batch, samples)."""
    state = {name: np.asarray(array, "float64") for name, array in state.items()}
    x = np.asarray(x, "float64")[:, None, :]
    if "sequential.0.0.weight" in state:
        return sample_cnn(state, "sequential", x)

    def numbers(name):
        found = (re.match(rf"{name}(\d+)\.", n) for n in state)
        return sorted({int(match[1]) for match in found if match})

    skips = []
    names = [f"conv{k}" for k in numbers("conv") if k <= 5]
    names += [f"deeperDown{k}" for k in numbers("deeperDown")]
    for name in names:
        x = block(state, f"{name}.layers", pool(x) if skips else x)
        skips.append(x)
    outputs = [skips.pop()]
    ups = [(f"transposedDeeper{k}", f"deeperUp{k}") for k in numbers("deeperUp")[::-1]]
    ups += [(f"transposedConv{k}", f"conv{k}") for k in numbers("transposedConv")]
    for up, name in ups:
        up = transposed_convolution(outputs[-1], state[f"{up}.weight"], state[f"{up}.bias"])
        joined = np.concatenate([up, skips.pop()], axis=1)
        outputs.append(block(state, f"{name}.layers", joined))
    x = outputs.pop()
    if "model_down.sequential.0.0.weight" in state:
        return sample_cnn(state, "model_down.sequential", x)
    for k in numbers("convDown"):
        x = pool(x)
        if state[f"convDown{k}.layers.0.weight"].shape[1] > x.shape[1]:
            x = np.concatenate([x, outputs.pop()], axis=1)
        x = block(state, f"convDown{k}.layers", x)
    return x


def represent(state, x):
    """The representation: (batch, d) from (batch, samples)."""
    return features(state, x).mean(axis=-1)


def dense(state, x):
    """A stack of linear layers with ReLU between them: projector or head."""
    x = np.asarray(x, "float64")
    for index in sorted({int(name.split(".")[0]) for name in state}):
        x = np.maximum(x, 0) if index else x
        x = x @ state[f"{index}.weight"].T.astype("float64")
        x = x + state.get(f"{index}.bias", 0)
    return x


def encoder_shapes(preset):
    """The tensors of a published variant, as its module declares them.

    `preset` has the attributes of `keras_tune.models.Preset`; only its numbers are used.
    """
    n, depth, decoder = preset.base_filters, preset.contraction_depth, preset.decoder_depth
    tail = preset.tail_filters()
    shapes = {}

    def declare(name, inputs, outputs):
        shapes[f"{name}.0.weight"] = (outputs, inputs, 3)
        for tensor in ("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
            shapes[f"{name}.{tensor}"] = (outputs,)

    def declare_sample_cnn(name):
        for index, (inputs, outputs) in enumerate(zip((1, *tail), tail, strict=False)):
            declare(f"{name}.{index}", inputs, outputs)

    if decoder == 0:
        declare_sample_cnn("sequential")
        return shapes
    names = ["conv1", "conv2", "conv3", "conv4", "conv5"]
    names += [f"deeperDown{k}" for k in range(1, depth - 3)]
    for level, name in enumerate(names):
        declare(f"{name}.layers", n * 2 ** (level - 1) if level else 1, n * 2**level)
    ups = [(f"transposedDeeper{k}", f"deeperUp{k}") for k in range(depth - 4, 0, -1)]
    ups += [(f"transposedConv{k}", f"conv{k}") for k in range(6, 10)]
    width = n * 2**depth
    for up, name in ups[:decoder]:
        shapes[f"{up}.weight"] = (width, width // 2, 3)
        shapes[f"{up}.bias"] = (width // 2,)
        last = preset.tail_type == "sample_cnn" and name == "conv9"
        declare(f"{name}.layers", width, 1 if last else width // 2)
        width //= 2
    if preset.tail_type == "sample_cnn":
        declare_sample_cnn("model_down.sequential")
        return shapes
    for index, outputs in enumerate(tail):
        linked = preset.extra_links and index < decoder
        declare(
            f"convDown{depth - decoder + index + 1}.layers",
            width + (n * 2 ** (depth - decoder + index + 1) if linked else 0),
            outputs,
        )
        width = outputs
    return shapes


def seeded_state(shapes, seed=0):
    """Draw tensors by their names, so that no two depend on each other or on any framework.

    Kernels are He-like, so that 20 blocks neither amplify nor damp; statistics lie around 1.
    """
    state = {}
    for name, shape in shapes.items():
        random = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if len(shape) > 1:
            transposed = name.startswith("transposed")
            # With stride = kernel size, one tap of every input reaches an output.
            fan_in = shape[0] if transposed else int(np.prod(shape[1:]))
            array = random.normal(0, (2 / fan_in) ** 0.5, shape)
        elif name.endswith("running_var") or name.endswith(".1.weight"):
            array = random.uniform(0.6, 1.6, shape)
        else:
            array = random.normal(0, 0.02, shape)
        state[name] = array.astype("float32")
    return state


def tiny_variants():
    """Variants of every kind, a few channels wide, by the name of their files."""
    from keras_tune.models import Preset

    return {
        "plus": Preset(2, (2, 4, 8, 16), (8,) * 5, extra_links=True),
        "deep": Preset(1, (2, 4), (8,) * 2, contraction_depth=6, decoder_depth=6),
        "shallow": Preset(2, (8,), (8,), decoder_depth=2),
        "clmr": Preset(4, (1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2), (), decoder_depth=0),
        "hybrid": Preset(2, (), (4,) * 5 + (6,) * 6, tail_type="sample_cnn"),
    }


def tiny_waveforms():
    """A tone and noise: float32 (2, 59049)."""
    time = np.arange(SAMPLES) / 22050
    tone = 0.5 * np.sin(2 * np.pi * 220 * time)
    noise = np.random.default_rng(1).normal(0, 0.1, SAMPLES)
    return np.stack([tone, noise]).astype("float32")


def tiny_projector(width):
    return seeded_state({"0.weight": (width, width), "2.weight": (6, width)}, seed=1)


def tiny_head(width, hidden):
    shapes = {"0.weight": (5, width), "0.bias": (5,)}
    if hidden:
        shapes = {"0.weight": (7, width), "0.bias": (7,), "2.weight": (5, 7), "2.bias": (5,)}
    return seeded_state(shapes, seed=2)


def fingerprint(representation):
    """Eight random projections of a representation, in which each of its components counts."""
    mixing = np.random.default_rng(3).normal(size=(len(representation), 8))
    return np.asarray(representation, "float64") @ mixing / len(representation) ** 0.5


def demo_window():
    """The first window of the demo corpus: float32 (1, 59049)."""
    from keras_tune.data import demo_clips

    return demo_clips("train", num_clips=1)[0][:, :SAMPLES]


def write_golden_small():
    import json

    import torch
    from safetensors.numpy import save_file

    from keras_tune.models.presets import PRESETS, PUBLISHED

    FOLDER.mkdir(exist_ok=True)
    outputs = {}
    for name, preset in tiny_variants().items():
        encoder = seeded_state(encoder_shapes(preset))
        represented = represent(encoder, tiny_waveforms())
        width = represented.shape[1]
        outputs[f"{name}/representation"] = represented
        outputs[f"{name}/projection"] = dense(tiny_projector(width), represented)
        for kind, hidden in (("linear", False), ("hidden", True)):
            outputs[f"{name}/logits_{kind}"] = dense(tiny_head(width, hidden), represented)
    np.savez_compressed(FOLDER / "outputs.npz", **outputs)

    def tensors(state, prefix):
        tensors = {prefix + name: torch.from_numpy(array) for name, array in state.items()}
        for name in [name for name in tensors if name.endswith("running_var")]:
            tensors[name.replace("running_var", "num_batches_tracked")] = torch.tensor(1000)
        return tensors

    states = {name: seeded_state(encoder_shapes(p)) for name, p in tiny_variants().items()}
    lightning = {"epoch": 1, "global_step": 1, "pytorch-lightning_version": "1.8.0.post1"}
    encoder = tensors(states["plus"], "model.encoder.")
    torch.save(
        lightning
        | {
            "state_dict": encoder
            | {name.removeprefix("model."): tensor for name, tensor in encoder.items()}
            | tensors(tiny_projector(8), "model.projector."),
            "hyper_parameters": {"temperature": 0.25},
        },
        FOLDER / "plus.ckpt",
    )
    for kind, hidden in (("linear", False), ("hidden", True)):
        content = lightning | {"state_dict": tensors(tiny_head(8, hidden), "model.")}
        torch.save(content, FOLDER / f"head_{kind}.ckpt")
    head = {f"fc.{name.split('.')[1]}": array for name, array in tiny_head(8, False).items()}
    torch.save(
        tensors(states["clmr"] | head, "encoder.") | tensors(tiny_projector(8), "projector."),
        FOLDER / "clmr.pt",
    )
    save_file(
        {f"encoder.{name}": array for name, array in states["deep"].items()},
        FOLDER / "deep.safetensors",
    )

    clip = demo_window()
    content = {"clip": _rounded(rms(clip))}
    for name in PUBLISHED:
        state = seeded_state(encoder_shapes(PRESETS[name]))
        representation = represent(state, clip)[0]
        content[name] = [_rounded(value) for value in fingerprint(representation)]
    lines = [f"{json.dumps(name)}: {json.dumps(values)}" for name, values in content.items()]
    (FOLDER / "fingerprints.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def rms(clip):
    return np.sqrt(np.mean(np.square(clip, dtype="float64")))


def _rounded(value):
    return float(f"{value:.7g}")


if __name__ == "__main__":
    write_golden_small()
