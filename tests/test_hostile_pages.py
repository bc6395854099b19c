"""Names of any kind on the pages of sweeps and audits: they are text, and no path leads out of the folder."""

import json
import re

import pytest
from html_reader import Html
from test_audit_folder import QUICK, Net, observed, truth
from test_page import HALF, HOSTILE, TAGS
from test_sweep import point

from fl_privacy.simulations import Audit, audit
from fl_privacy.simulations.report.html import document
from fl_privacy.simulations.report.page import Finding, Level, Page
from fl_privacy.simulations.sweeping.figure import draw_settings
from fl_privacy.simulations.sweeping.result import SweepResult

NAMES = (HOSTILE, "../../../outside", "/etc/passwd", "\"' onmouseover='x", "&lt;b&gt; ]]> <!-- $\\alpha$ " + HALF)


def checked(text):
    """The page's texts, where nothing but the project's own tags is in it and nothing comes from outside."""
    page = Html(text)
    assert page.tags <= TAGS
    assert not [name for name, _ in page.pairs if name.startswith("on")]
    assert all(each.startswith("data:image/png;base64,") for each in page.attributes("src"))
    assert not page.attributes("href")
    assert not re.search(r"url\(|@import", text)
    return page.texts


def found_of(name):
    settings = [
        {
            "setting": f"{setting}{name}",
            "floor": "class mean",
            "controls": [{"name": "class mean", "kind": "guess from the label", "psnr": 17.0}],
            "points": [
                {**point(name, 0.9, 30.0), "attack": name, "family": name, "strengths": {name: name}},
                {**point("none", 0.8, 40.0), "family": "none", "strengths": {}},
            ],
            "without_point": [name],
            "findings": [{"defence": name, "level": "leaks", "words": name}],
        }
        for setting in ("a", "b")
    ]
    for setting in settings:
        setting["controls"][0] |= {"psnr_low": 16.0, "psnr_high": 18.0}
    return {
        "name": name,
        "interval": name,
        "grid": {name: [name]},
        "seeds": [0, 1],
        "settings": settings,
        "warnings": [name],
        "failed": [{"cell": name, "error": name, "log": name}],
        "cells": [{"cell": name, "folder": name, "samples": name}],
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_with_any_names_is_text_and_draws_inside_its_folder(name, tmp_path):
    folder = tmp_path / "deep" / "sweep"
    (folder / "figures").mkdir(parents=True)
    (folder / "sweep-folder.json").write_text(json.dumps({"command": ["fl-privacy", "sweep", name]}))
    found = SweepResult(folder, found_of(name))
    drawn = draw_settings(folder / "figures", found_of(name.removesuffix(HALF)))  # no file can bring half a character
    assert len(drawn) == 2
    assert all(path.resolve().parent == (folder / "figures").resolve() for path in drawn)
    texts = checked(found.to_html().read_text(encoding="utf-8"))
    checked(found._repr_html_())
    assert any(name.removesuffix(HALF) in each for each in texts), "it is there, as text"
    outside = {path for path in tmp_path.rglob("*") if path.is_file() and folder not in path.parents}
    assert not outside


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    base = tmp_path_factory.mktemp("hostile")
    seen = observed(base / "seen", rounds=1)
    return audit(seen, model=Net, truth=truth, attacks=QUICK, out=base / "deep" / "out")


def spoiled(value, name, key=""):
    """The report with a name in place of every text but those of which an audit has a fixed choice."""
    if isinstance(value, dict):
        fixed = ("local", "kind")
        return {each: one if each in fixed else spoiled(one, name, each) for each, one in value.items()}
    if isinstance(value, list | tuple):
        return [spoiled(each, name, key) for each in value]
    return name if isinstance(value, str) else value


@pytest.mark.parametrize("name", NAMES)
def test_an_audit_with_any_names_is_text_and_reads_inside_its_folder(name, audited, tmp_path):
    plain = json.loads((audited.folder / "audit.json").read_text())
    whole = spoiled(plain, name)
    whole["messages"][0]["doubts"] = whole["left_out"] = [{"round": 1, "client": 0, "reason": name}]
    whole["messages"][0]["doubts"] = [name]
    for report in (whole, {**whole["messages"][0], "environment": whole["environment"]}):
        (tmp_path / "audit.json").write_text(json.dumps(report))
        found = Audit.read(tmp_path)
        texts = checked(found.to_html().read_text(encoding="utf-8"))
        checked(found._repr_html_())
        assert any(name.removesuffix(HALF) in each for each in texts), "it is there, as text"
        assert found.guesses == {}, "a name is no way to a file elsewhere"


def test_a_page_without_files_has_no_section_of_them():
    page = Page("t", "q?", [], [Finding("a", Level.CLOSER, "b")], "scale", [], {})
    assert "Files" not in Html(document(page)).texts
