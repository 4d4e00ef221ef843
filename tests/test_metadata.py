"""The files around the package agree with it."""

import ast
import configparser
import importlib.metadata
import pathlib
import re
import runpy
import sys

import pytest
import yaml

import keras_tune

pytestmark = pytest.mark.one_backend

ROOT = pathlib.Path(keras_tune.__file__).parents[1]
if not (ROOT / ".github").is_dir():
    pytest.skip("keras_tune does not run from a checkout", allow_module_level=True)


@pytest.fixture(scope="module")
def setup():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def yaml_of(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_version_is_written_in_one_place_and_cited_as_it_is(setup):
    assert setup["metadata"]["version"] == "attr: keras_tune.version.__version__"
    assert yaml_of("CITATION.cff")["version"] == keras_tune.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", keras_tune.__version__)


def test_the_change_log_begins_with_what_is_unreleased():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)[0] == "Unreleased"


def test_everything_that_is_no_code_is_declared_as_package_data(setup):
    patterns = setup["options.package_data"]["keras_tune"].replace("\n", ",").split(",")
    package = ROOT / "keras_tune"
    declared = {path for pattern in patterns for path in package.glob(pattern.strip())}
    there = {
        path
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and not path.name.startswith(".")
    }
    assert there - declared == set()


def test_classifiers_name_the_python_versions_that_are_allowed_and_tested(setup):
    from packaging.specifiers import SpecifierSet

    allowed = SpecifierSet(setup["options"]["python_requires"])
    named = set(re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"]))
    assert named == {f"3.{minor}" for minor in range(30) if f"3.{minor}" in allowed}
    matrix = yaml_of(".github/workflows/ci.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert set(matrix["python"]) == named


def test_every_environment_of_every_change_is_in_the_workflow():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "tox.ini", encoding="utf-8")
    environments = {name.strip() for name in parser["tox"]["env_list"].split(",")}
    jobs = yaml_of(".github/workflows/ci.yml")["jobs"]
    matrix = set(jobs["tests"]["strategy"]["matrix"]["environment"])
    assert matrix | {"lint", "docs"} == environments


def test_the_installed_package_has_this_version():
    try:
        version = importlib.metadata.version("keras_tune")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("keras_tune is not installed")
    assert version == keras_tune.__version__


LINK = re.compile(r"\]\(([^)]+)\)")


def test_links_of_the_readme_work_on_a_package_index():
    readme_for_index = runpy.run_path(str(ROOT / "setup.py"))["readme_for_index"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    source = "https://example.org/keras_tune"
    links = LINK.findall(readme_for_index(text, source, "1.2.3"))
    assert len(links) == len(LINK.findall(text))
    files = {re.sub(f"^{source}/(blob|raw)/v1.2.3/|#.*", "", link) for link in links}
    missing = {name for name in files if not (ROOT / name).exists()}
    assert all(name.startswith("https://") for name in missing)
    alone = readme_for_index(text, None, "1.2.3")
    assert not LINK.search(alone) and "![" not in alone
    assert "`tune_plus_open`, trained without labels" in alone.replace("\n", " ")


def test_the_installed_description_has_no_relative_links():
    try:
        description = importlib.metadata.metadata("keras_tune").get_payload()
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("keras_tune is not installed")
    assert "keras_tune.embed(" in description
    assert all(re.match(r"\w+:", link) for link in LINK.findall(description))


def test_the_guide_for_contributors_names_every_folder_and_only_what_there_is():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = {path.parent.name for path in (ROOT / "keras_tune").glob("[a-z]*/__init__.py")}
    assert {f"`keras_tune/{folder}/`" for folder in folders} <= set(re.findall(r"`.+?`", text))
    named = re.findall(r"`([\w./]+(?:\.py|\.md|\.cfg|\.ini|/))`", text)
    places = [ROOT, ROOT / "keras_tune", ROOT / "keras_tune" / "augment"]
    missing = {name for name in named if not any((place / name).exists() for place in places)}
    assert missing <= {"tests/data/test_NAME_adapter.py"}


# Packages whose names are not those of their modules.
PACKAGES = {"google": "protobuf", "sklearn": "scikit-learn", "yaml": "pyyaml"}
# Only the workers of a search import it, which KerasTuner needs there, too.
NOT_DECLARED = {"grpc"}


def test_what_is_imported_is_declared(setup):
    requirements = setup["options"]["install_requires"]
    requirements += "\n".join(setup["options.extras_require"].values())
    names = re.findall(r"^([\w-]+)", requirements, re.MULTILINE)
    declared = {name.lower().replace("_", "-") for name in names}
    imported = set()
    for path in (ROOT / "keras_tune").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    others = imported - sys.stdlib_module_names - {"keras_tune"} - NOT_DECLARED
    assert {PACKAGES.get(name, name).replace("_", "-") for name in others} <= declared
