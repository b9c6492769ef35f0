"""The documentation holds together: links lead somewhere, pictures are current, options exist."""

import re
import runpy
from pathlib import Path

import pytest

from tiercel.cli.groups import ENGINE, SAMPLING, SERVER
from tiercel.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tiercel"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted(SOURCE.rglob("README.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_every_package_folder_has_a_page() -> None:
    folders = {file.parent for file in SOURCE.glob("*/**/*.py") if file.name != "__init__.py"}
    assert len(folders) > 10
    assert sorted(str(folder) for folder in folders if not (folder / "README.md").exists()) == []


def test_the_picture_is_current() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "draw_reuse.py"))["draw"]()
    assert (ROOT / "docs" / "reuse.svg").read_text() == drawn


def test_the_options_named_in_the_docs_exist() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    groups = {"--" + p.name.replace("_", "-") for group in (ENGINE, SAMPLING, SERVER) for p in group.parameters}
    own = {"--raw", "--system", "--force", "--json", "--peer", "--help", "--namespace", "--tokens", "--repair", "--yes"}
    own |= {"--file", "--format", "--messages", "--salt", "--restart", "--trace", "--timings", "--later", "--prompt-tokens"}
    own |= {"--no-measure", "--profile", "--same-prompts", "--shape", "--requests"}
    own |= {"--peers", "--only", "--work", "--contexts", "--prefix-tokens", "--runs", "--patience", "--plots"}
    own |= {"--weights", "--kv", "--window", "--text", "--baseline"}
    assert set(re.findall(r"--[a-z][a-z-]+", text)) <= groups | own
    assert {"--" + p.name.replace("_", "-") for p in (*ENGINE.parameters, *SAMPLING.parameters)} <= set(
        re.findall(r"--[a-z][a-z-]+", text)
    )
    assert [name for name in COMMANDS if f"`tiercel {name}" not in text] == []
