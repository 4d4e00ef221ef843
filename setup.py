"""Prepares the README for a package index, where links to files of the repository lead nowhere.

Everything else about the package stands in setup.cfg.
"""

import configparser
import pathlib
import re

ROOT = pathlib.Path(__file__).parent


def readme_for_index(text: str, source: str | None, version: str) -> str:
    """Make relative links and images of a Markdown text absolute.

    Args:
        text: The text.
        source: Address of the repository, or None, which turns links into plain text and leaves
            images out.
        version: The version, whose tag the links point to.

    Returns:
        The text with absolute links only.
    """

    def absolute(match):
        image, label, target = match.groups()
        if re.match(r"\w+:", target):
            return match[0]
        if source is None:
            return "" if image else label
        return f"{image}[{label}]({source}/{'raw' if image else 'blob'}/v{version}/{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)]+)\)", absolute, text)


if __name__ == "__main__":
    from setuptools import setup

    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    addresses = dict(
        line.split(" = ", 1) for line in parser["metadata"]["project_urls"].strip().splitlines()
    )
    version = re.search(r'"(.+)"', (ROOT / "keras_tune" / "version.py").read_text("utf-8"))[1]
    setup(
        long_description=readme_for_index(
            (ROOT / "README.md").read_text("utf-8"), addresses.get("Source"), version
        )
    )
