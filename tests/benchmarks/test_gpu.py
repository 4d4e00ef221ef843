"""The table of training on a GPU, at toy size."""

import json
import re

TOY = "--models tune_plus_32 --clips 2 --samples 19683 --steps 1 --repeats 1 --backends torch"


def test_the_table_is_measured_and_kept(without_tensorflow, tmp_path):
    output, readme = tmp_path / "gpu.json", tmp_path / "README.md"
    begin, end = "<!-- The table of gpu.py -->", "<!-- The end of the table of gpu.py -->"
    readme.write_text(f"above\n{begin}\nold\n{end}\nbelow\n")
    options = [*TOY.split(), "--precision=float32", "--output", output, "--readme", readme]
    assert "all rows are measured" in without_tensorflow("gpu.py", "--part=2", *options)
    rows = json.loads(output.read_text())["rows"]
    ours, plain = (rows[f"{name}, tune_plus_32, 2 clips"] for name in ("torch", "plain"))
    assert 0 < ours["roofline"] < 1 and ours["peak"] > 0 and ours["device"] == "cpu"
    text = readme.read_text()
    assert text.startswith(f"above\n{begin}\n") and text.endswith(f"{end}\nbelow\n")
    assert "old" not in text
    cells = re.search(r"\| tune_plus_32, PyTorch \| 2 \| (.*) \|", text)[1].split(" | ")
    assert cells[0] == f"{4 / ours['with_chain']:,.0f}" and cells[1] == f"{4 / ours['step']:,.0f}"
    assert float(cells[2]) == round(plain["step"] / ours["step"], 2)
    # What is there is not measured again; what failed elsewhere does not replace it.
    other = tmp_path / "other.json"
    failed = {"torch, tune_plus_32, 2 clips": {"error": "out of memory"}}
    failed["jax, tune_plus_32, 2 clips"] = {"error": "not done"}
    other.write_text(json.dumps({**json.loads(output.read_text()), "rows": failed}))
    without_tensorflow("gpu.py", "--minutes=0", *options, "--merge", other)
    assert json.loads(output.read_text())["rows"] == {**rows, **dict([list(failed.items())[1]])}
    assert "| tune_plus_32, JAX | 2 | not done |" in readme.read_text()
