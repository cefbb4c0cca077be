"""What the pages name exists: relative links, paths of code, and the tests and mutants of ``rules.md``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("providers/*/README.md"))
    if page.is_file()
)
FROM = (ROOT, ROOT / "datashard_core", ROOT / "tests/core")
"""Folders that a path in a page may be below."""

LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE_PATH = re.compile(r"`(?:python3 )?([\w.*-]+(?:/[\w.*-]+)*\.py)\b")
NAMED = re.compile(r"`(?:([\w/]+\.py): )?(test_\w+)`")
RULES = ROOT / "docs/design/rules.md"


def _anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_every_relative_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{_named(page)} links to {link}"
        assert not anchor or anchor in _anchors(target), f"{_named(page)} links to {link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_every_path_of_code_in_a_page_exists(page: Path) -> None:
    missing = [
        path for path in CODE_PATH.findall(page.read_text()) if not any(list(folder.glob(path)) for folder in FROM)
    ]
    assert missing == [], f"{_named(page)} names files that do not exist"


def test_the_rules_name_tests_that_exist() -> None:
    file, checked = "", 0
    for line in RULES.read_text().splitlines():
        for named, test in NAMED.findall(line):
            file = named or file
            found = [folder / file for folder in FROM if (folder / file).is_file()]
            assert found, f"{file} does not exist"
            assert f"def {test}(" in found[0].read_text(), f"{file} has no {test}"
            checked += 1
    assert checked >= 70, "the page was not understood"


def test_the_rules_name_every_mutant_and_no_other() -> None:
    """The last column of a rule that the simulation can notice holds the mutant's own name for it."""
    code = "".join(path.read_text() for path in sorted((ROOT / "testkit/datashard_testkit").glob("mutants*.py")))
    mutants = set(re.findall(r"\b(?:Tooth|Mutant)\(\s*\"([^\"]+)\"", code))
    cells = [line.rsplit("|", 2)[1] for line in RULES.read_text().splitlines() if line.startswith("|")]
    named = {name for cell in cells for name in re.findall(r"\"([^\"]+)\"", cell) if "`" not in cell}
    assert len(mutants) >= 30, "the mutants were not found"
    assert named == mutants
