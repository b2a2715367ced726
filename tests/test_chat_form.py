"""What the Chat page offers: models, guards and who was trained to be one, the same model in two columns."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from core.chat_models import offered_models
from core.compare.records import Comparison, checked_columns
from core.files import write_json
from core.guard.offers import UNTRAINED, first_guard, guard_offers
from core.methods import UserError
from core.ui.chat_form import AGAIN, ChatForm
from tests.test_ui_pages import make

EMBEDDED = ("embedded · SmolLM2-135M-Instruct", "embedded")
REST = ["", 0.7, 0.95, 64, 42, "", "", *[""] * 16]
"""What the fields after Models hold."""


def trained(workspace, run_id, prompt_format="guardreasoner", **more):
    """A run that left an adapter of the embedded model."""
    folder = make(workspace, run_id, **more).dir / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"")
    write_json(folder / "adapter_config.json", {})
    write_json(folder / "guardwaltz.json", {"base": "embedded", "prompt_format": prompt_format})


def form(workspace, public=False):
    """The form with words in place of its components."""
    made = ChatForm(workspace if not public else SimpleNamespace(
        access=SimpleNamespace(public=True), runs_dir=workspace.runs_dir, plugins=workspace.plugins))
    for name in ("key", "models", "guard", "temperature", "top_p", "tokens", "seed", "system"):
        setattr(made, name, name)
    made.own = [[(place, number) for number in range(4)] for place in range(4)]
    return made


# guards


def test_every_model_whose_weights_are_here_may_be_the_guard_and_says_whether_it_was_trained_for_it(workspace, monkeypatch):
    trained(workspace, "rsft-0001", created=1.0)
    trained(workspace, "other-0001", prompt_format=None, created=2.0)
    asked = []
    monkeypatch.setattr("core.lm.find.hub_file", lambda *words: asked.append(words))
    beyond = [(ref, ref) for ref in ("hf:me/guard", "hf:allenai/wildguard", "mistral:small", "openai:m@http://127.0.0.1:1/v1",
                                     "waltz:pair-0001", "waltz:pair-0001#feedback")]
    found = {ref: shown for shown, ref in guard_offers([*offered_models(workspace), *beyond], workspace)}
    assert list(found) == ["embedded", "run:other-0001", "run:rsft-0001", "hf:me/guard", "hf:allenai/wildguard", "waltz:pair-0001#feedback"]
    assert [ref for ref, shown in found.items() if UNTRAINED in shown] == ["embedded", "run:other-0001"]
    assert asked == [], "a page that is opened does not wait for the Hub"


def test_a_public_demo_begins_with_its_newest_trained_guard_and_a_private_app_with_none(workspace):
    assert form(workspace, public=True).fresh([EMBEDDED]).guard == "embedded"
    trained(workspace, "rsft-0001", created=1.0)
    trained(workspace, "rsft-0002", created=2.0)
    trained(workspace, "other-0001", prompt_format=None, created=3.0)
    offers = offered_models(workspace)
    assert first_guard(guard_offers(offers, workspace), workspace) == "run:rsft-0002"
    for public, guard in ((True, "run:rsft-0002"), (False, "")):
        assert form(workspace, public).fresh(offers).guard == guard
        shown = form(workspace, public).opened(None, offers, free=not public)["guard"]
        assert shown.value == guard
        assert [ref for _, ref in shown.choices] == ["", "embedded", "run:other-0001", "run:rsft-0002", "run:rsft-0001"]


def test_what_somebody_else_shared_is_read_but_chosen_anew_from_ones_own_list(workspace):
    shared = Comparison(columns=checked_columns(["embedded", "run:hers"]), guard="run:hers")
    fields = form(workspace, public=True).opened(shared, [EMBEDDED], free=False)
    assert (fields["models"].value, fields["guard"].value) == (["embedded"], "embedded")
    none = Comparison(columns=checked_columns(["embedded"]), guard="")
    assert form(workspace, public=True).opened(none, [EMBEDDED], free=False)["guard"].value == "", "who chose none has none"
    fields = form(workspace).opened(shared, [EMBEDDED], free=True)
    assert (fields["models"].value, fields["guard"].value) == (["embedded", "run:hers"], "run:hers")


# one model twice


def test_one_model_may_stand_in_two_columns_at_settings_of_their_own(workspace):
    own = list(REST)
    own[7 + 4] = "0.1"  # temperature of column B
    made = form(workspace).comparison([["embedded", AGAIN], *own], False)
    assert [column.model for column in made.columns] == ["embedded", "embedded"]
    assert [made.options_of(place)["temperature"] for place in (0, 1)] == [0.7, 0.1]
    with pytest.raises(UserError, match="at least one model"):
        form(workspace).comparison([[AGAIN], *REST], False)


@pytest.mark.parametrize("columns", [["embedded", "embedded"], ["run:a", "embedded", "run:a"], ["run:a", "embedded", "embedded"],
                                     ["run:b", "run:a", "embedded"]])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_comparison_that_is_opened_chooses_the_models_it_has(workspace, columns, hidden):
    shown = form(workspace).opened(Comparison(columns=checked_columns(columns), blind=hidden), [EMBEDDED], free=True)["models"].value
    again = form(workspace).comparison([shown, *REST], False)
    assert sorted(column.model for column in again.columns) == sorted(columns)
    if hidden:
        turned = Comparison(columns=checked_columns(columns[::-1]), blind=True)
        assert form(workspace).opened(turned, [EMBEDDED], free=True)["models"].value == shown, "the order would tell which column is which"
