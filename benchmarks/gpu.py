"""The table of training on a GPU, in two calls of less than ten minutes each.

    python benchmarks/gpu.py --part 1
    python benchmarks/gpu.py --part 2

Needs JAX and PyTorch that see the GPU, and neither TensorFlow nor a network. Part 1 begins with
JAX, part 2 with PyTorch; each goes on with what the other has left, until all rows are there or
the time is over. Every row is measured by `train_step.py --resident` in a process of its own, and
saved in `gpu.json` at once, so a call that was stopped, or is repeated, measures what is missing.
In the end the table of `README.md` is written from `gpu.json`, between the two lines that mark it.

Where the two calls run on machines that keep nothing, bring both files back and put them together:

    python benchmarks/gpu.py --minutes 0 --merge part_1.json part_2.json
"""

import argparse
import json
import pathlib
import sys
import time

import train_step

FOLDER = pathlib.Path(__file__).parent
MODELS = ("tune_plus", "tune_tail_5", "clmr")
CLIPS = (48, 512)
PARTS = {1: ("jax", "torch", "plain"), 2: ("torch", "plain", "jax")}
NAMES = {"jax": "JAX", "torch": "PyTorch", "plain": "plain PyTorch"}
BEGIN, END = "<!-- The table of gpu.py -->", "<!-- The end of the table of gpu.py -->"
# Seconds without which no row is begun.
LEAST = 20


def key_of(contender, model, clips):
    return f"{contender}, {model}, {clips} clips"


def missing(results, options):
    """What is to be measured, in order: those that failed before come last."""
    wanted = [
        (contender, model, clips)
        for contender in PARTS[options.part]
        if (contender if contender == "jax" else "torch") in options.backends
        for model in options.models
        for clips in options.clips
    ]
    rows = {row: results["rows"].get(key_of(*row), {}) for row in wanted}
    left = [row for row in wanted if "step" not in rows[row]]
    return sorted(left, key=lambda row: "error" in rows[row])


def measure(contender, model, clips, results, options, limit):
    """A row, or what went wrong."""
    settings = train_step.options_of([f"--clips={clips}", "--resident"])
    for name, value in results["settings"].items():
        setattr(settings, name, value)
    # Plain PyTorch checks that it has as many parameters as the model that it is compared with.
    known = (row["parameters"] for row in rows_of(results, model) if "parameters" in row)
    try:
        return train_step.measure(contender, model, settings, next(known, 0), limit)
    except train_step.FailedError as error:
        lines = str(error).splitlines()
        # JAX adds advice below the error.
        named = [line for line in lines if "Error" in line]
        return {"error": (named or lines)[-1][:120]}


def rows_of(results, model):
    return [row for key, row in results["rows"].items() if key.split(", ")[1] == model]


def read(path, settings):
    """The results so far."""
    if not path.exists():
        return {"settings": settings, "rows": {}}
    results = json.loads(path.read_text())
    if results["settings"] != settings:
        sys.exit(f"{path}: has other settings, {results['settings']}; give another --output")
    return results


def table(results):
    """The table as lines of Markdown."""
    settings, rows = results["settings"], results["rows"]
    devices = sorted({row["device"] for row in rows.values() if "device" in row})
    lines = [
        f"{' and '.join(devices) or 'No GPU yet'}, {settings['precision']}, views of "
        f"{settings['samples']:,} samples:",
        "",
        "| | clips | views/s with the chain | without | ratio | chain | roofline | peak GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    named = {tuple(key.removesuffix(" clips").split(", ")): row for key, row in rows.items()}
    order = list(NAMES)
    for key in sorted(named, key=lambda key: (key[1], int(key[2]), order.index(key[0]))):
        contender, model, clips = key
        row, views = named[key], 2 * int(clips)
        cells = [f"{model}, {NAMES[contender]}", clips]
        if "step" not in row:
            lines.append(
                "| " + " | ".join([*cells, row["error"].replace("|", "/"), *[""] * 5]) + " |"
            )
            continue
        baseline = named.get(("plain", model, clips), {})
        found = train_step.columns(row, views, baseline if "step" in baseline else None)
        cells.append(f"{views / row['with_chain']:,.0f}" if "with_chain" in row else "")
        cells.append(f"{found['views/s']:,.0f}")
        for column in ("ratio", "chain", "roofline", "peak GB"):
            form = train_step.COLUMNS[column]
            cells.append(format(found[column], form) if column in found else "")
        lines.append("| " + " | ".join(cells) + " |")
    rates = {
        contender: max((row["rate"], row["bandwidth"]) for row in found)
        for contender in NAMES
        if (found := [r for k, r in rows.items() if k.startswith(f"{contender},") and "rate" in r])
    }
    parts = [
        f"{NAMES[contender]} {rate / 1e12:,.1f} TFLOP/s and {bandwidth / 1e9:,.0f} GB/s"
        for contender, (rate, bandwidth) in rates.items()
    ]
    if parts:
        lines += [
            "",
            f"The roofline is that of rates measured in the same processes: {'; '.join(parts)}.",
        ]
    return lines


def write_table(path, results):
    """Replace what stands between the two marks."""
    from keras_tune.files import write_text

    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"{path}: has no place for the table, the lines {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    write_text(path, "\n".join([before + BEGIN, "", *table(results), "", END + after]))


def main():
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", type=int, choices=PARTS, default=1)
    parser.add_argument("--minutes", type=float, default=9, help="when to stop (default 9)")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--backends", nargs="+", default=("jax", "torch"), help="jax, torch")
    parser.add_argument("--clips", nargs="+", type=int, default=CLIPS, help="clips a batch")
    parser.add_argument("--samples", type=int, default=59049, help="length of a view")
    parser.add_argument("--steps", type=int, default=20, help="steps of a timed epoch")
    parser.add_argument("--repeats", type=int, default=3, help="epochs timed; the best counts")
    parser.add_argument("--precision", default="mixed_bfloat16")
    parser.add_argument("--merge", nargs="*", default=[], type=pathlib.Path, metavar="JSON")
    parser.add_argument("--output", type=pathlib.Path, default=FOLDER / "gpu.json")
    parser.add_argument("--readme", type=pathlib.Path, default=FOLDER / "README.md")
    options = parser.parse_args()
    from keras_tune.files import write_json

    names = ("samples", "steps", "repeats", "precision")
    settings = {name: getattr(options, name) for name in names}
    results = read(options.output, settings)
    for path in options.merge:
        if not path.exists():
            sys.exit(f"{path}: no such file")
        for key, row in read(path, settings)["rows"].items():
            if "step" in row or key not in results["rows"]:
                results["rows"][key] = row
    for row in missing(results, options):
        left = 60 * options.minutes - (time.monotonic() - started)
        if left < LEAST:
            break
        found = measure(*row, results, options, left)
        results["rows"][key_of(*row)] = found
        write_json(options.output, results)
        speed = f"{2 * row[2] / found['step']:,.0f} views/s" if "step" in found else found["error"]
        print(f"{key_of(*row)}: {speed}", flush=True)
    write_json(options.output, results)
    write_table(options.readme, results)
    left = len(missing(results, options))
    print("\n".join(table(results)))
    print(f"{left} rows are missing; run it again" if left else "all rows are measured")


if __name__ == "__main__":
    main()
