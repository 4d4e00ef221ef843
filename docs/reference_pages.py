"""Writes pages of the documentation site: the reference, and what lies beside the folder.

What is public is read from the packages' `__init__.py` without importing them, so that building the
site needs no deep-learning framework.
"""

import ast
import pathlib
import re

from mkdocs.structure.files import File

PACKAGE = pathlib.Path(__file__).parents[1] / "keras_tune"
# Configurations in the library that commands add options to.
LIBRARY_CONFIGS = {"pretrain": ("ModelConfig", "PretrainConfig"), "finetune": ("FinetuneConfig",)}


def on_files(files, config):
    """Add the pages of the reference to those that are in the folder."""
    for path in sorted(PACKAGE.glob("*/__init__.py")):
        if path.parent.name != "recipes":
            page = _page(path.parent.name, path, public_names(path))
            name = f"reference/{path.parent.name}.md"
            files.append(File.generated(config, name, content=page))
    module = PACKAGE / "finetuning.py"
    nodes = ast.parse(module.read_text(encoding="utf-8")).body
    defined = [node.name for node in nodes if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    names = [(name, "keras_tune.finetuning") for name in defined if not name.startswith("_")]
    page = _page("finetuning", module, names)
    files.append(File.generated(config, "reference/finetuning.md", content=page))
    files.append(File.generated(config, "reference/commands.md", content=_commands()))
    for name, page in (("CONTRIBUTING", "contributing"), ("CHANGELOG", "changelog")):
        text = (PACKAGE.parent / f"{name}.md").read_text(encoding="utf-8")
        for link, here in (
            ("](docs/", "]("),
            ("](CHANGELOG.md)", "](changelog.md)"),
            ("[Apache License 2.0](LICENSE)", "Apache License 2.0"),
        ):
            text = text.replace(link, here)
        files.append(File.generated(config, f"{page}.md", content=text))
    return files


def public_names(init):
    """Return the public names of a package and the modules they are in, sorted by name.

    Args:
        init: Path of its `__init__.py`, which imports the names, or attaches them with
            `lazy_loader`.
    """
    tree = ast.parse(init.read_text(encoding="utf-8"))
    package = f"keras_tune.{init.parent.name}"
    found, exported = {}, None
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras_tune."):
            found.update({alias.name: node.module for alias in node.names})
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__":
            exported = ast.literal_eval(node.value)
        if isinstance(node, ast.keyword) and node.arg == "submod_attrs":
            attached = ast.literal_eval(node.value)
            found = {n: f"{package}.{module}" for module, ns in attached.items() for n in ns}
    names = found if exported is None else exported
    return sorted((name, found[name]) for name in names)


def _page(name, file, names):
    summary = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    parts = [f"# keras_tune.{name}", summary]
    parts += [f"::: {module}.{public}" for public, module in names]
    return "\n\n".join(parts) + "\n"


def _commands():
    main = ast.parse((PACKAGE / "__main__.py").read_text(encoding="utf-8"))
    (commands,) = (
        ast.literal_eval(node.value)
        for node in main.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "COMMANDS"
    )
    parts = ["# Commands", "`keras-tune COMMAND --help` shows the same, with defaults and ranges."]
    for command in commands:
        tree = ast.parse((PACKAGE / "recipes" / f"{command}.py").read_text(encoding="utf-8"))
        parts += [f"## {command}", ast.get_docstring(tree)]
        nodes = tree.body
        # The library's part of the configuration.
        source = (PACKAGE / "training" / "config.py").read_text(encoding="utf-8")
        library = {node.name: node for node in ast.parse(source).body if hasattr(node, "name")}
        nodes = [*(library[name] for name in LIBRARY_CONFIGS.get(command, ())), *nodes]
        for node in nodes:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
                name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.name.removesuffix("Config"))
                nested = name and name.lower() != command
                parts += [_options(node, f"{name.lower()}." if nested else "")]
    return "\n\n".join(parts) + "\n"


def _options(config, prefix):
    """A table of a configuration's options: what its docstring says under Args."""
    lines = ast.get_docstring(config).partition("Args:\n")[2].splitlines()
    rows, summary = [], ast.get_docstring(config).splitlines()[0]
    for line in lines:
        if line.startswith("    ") and not line.startswith("     "):
            name, _, text = line.strip().partition(": ")
            rows.append([name, text])
        elif rows and line.strip():
            rows[-1][1] += f" {line.strip()}"
        elif rows:
            break
    table = [f"| `--{prefix}{name}` | {text.replace('|', chr(92) + '|')} |" for name, text in rows]
    return "\n".join([f"**{summary}**", "", "| option | meaning |", "|---|---|", *table])
