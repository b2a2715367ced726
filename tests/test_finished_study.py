"""The study on the first page of a public demo: its own numbers, of what is published alone."""

from __future__ import annotations

from core import shipped
from core.files import read_json, write_json
from core.ui.finished_study import WITHOUT_WEIGHTS, study_card
from tests.test_ui_pages import make


def test_the_shipped_study_is_shown_with_the_numbers_of_its_report(workspace):
    shipped.place(workspace)
    shown = str(study_card(workspace))
    report = read_json(workspace.runs_dir / "eval-0001" / "report.json", {})
    for entry in report["tasks"]["request"]["models"]:
        f1 = entry["scores"][report["policy"]]["f1"]
        assert f"{100 * f1['value']:.1f}" in shown
        assert f"{100 * f1['low']:.1f}–{100 * f1['high']:.1f}" in shown
    for way in ("/runs?run=recipe-0001", "/chat", "/runs?recipes=1"):
        assert f'href="{way}"' in shown
    assert WITHOUT_WEIGHTS in shown
    path = workspace.runs_dir / "eval-0001" / "report.json"
    path.write_text(path.read_text().replace(str(f1["low"]), "0.1234"))
    assert "12.3–" in str(study_card(workspace)), "nothing of it is written down twice"
    (workspace.runs_dir / "rsft-0001" / "adapter").mkdir()
    assert WITHOUT_WEIGHTS not in str(study_card(workspace))


def test_a_study_of_agents_shows_the_numbers_of_its_last_evaluation(workspace):
    make(workspace, "recipe-0001", "recipe", report={"title": "WaltzRL", "summary": "Two agents."}, created=1.0)
    make(workspace, "agent-eval-0001", "agent-eval", parent="recipe-0001", stage="evaluation", stats={"Unsafe": "4.6 (2.1–9.8)"})
    shown = str(study_card(workspace))
    assert "WaltzRL" in shown
    assert "<b>4.6</b>" in shown
    assert "2.1–9.8" in shown


def test_neither_a_visitors_rehearsal_nor_an_unfinished_study_is_the_one_that_is_shown(workspace):
    report = {"title": "A study", "summary": ""}
    make(workspace, "recipe-0001", "recipe", report=report, visitor="ada")
    make(workspace, "recipe-0002", "recipe", report=report, state="running")
    make(workspace, "recipe-0003", "recipe", report=report, labels={"archived": True})
    shown = str(study_card(workspace))
    assert "No study yet" in shown
    assert "/runs?recipes=1" in shown
    write_json(workspace.runs_dir / "recipe-0002" / "status.json", {**workspace.run("recipe-0002").status, "state": "succeeded"})
    assert "recipe-0002" in str(study_card(workspace))
