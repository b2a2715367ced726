"""What leaves a run: a zip, a merged model, a repository on the Hub. The Hub is the real client over HTTP; a server stores the bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes.hub_server import OWNER, TOKEN, HubServer, Repo, hub_server

from core.evals.report import About, Model, Options, build_report
from core.export.card import without_folders
from core.export.command import export
from core.files import read_json, write_json, write_text
from core.lm.find import CARD
from core.lm.load import Loaded, load_model
from core.lm.save import save_trained
from core.methods import UserError
from core.records import GuardExample, Labels, Prediction, write_records
from core.runs import REPOSITORY, Run, Workspace, config_yaml

FLOAT32: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
README = ("---\nlibrary_name: peft\ntags:\n- guardwaltz\n---\n\n# A guard\n\nMade by run `rsft-0001`.\n\n## Data\n\n"
          "`rows` (sha256 `ab12`): 12 rows.\n\n## Limits\n\n- It can be talked around.\n")


@pytest.fixture
def workspace(workspace_dir: Path) -> Workspace:
    return Workspace(workspace_dir)


def make_run(workspace: Workspace, run_id: str, method: str = "rsft", **status: Any) -> Run:
    """A run folder as the worker leaves it."""
    folder = workspace.runs_dir / run_id
    folder.mkdir()
    write_text(folder / "config.yaml", config_yaml(method, {"seed": 1, "learning_rate": 0.001}))
    write_text(folder / "command.sh", f"#!/bin/sh\npython app.py run {method}\n")
    write_json(folder / "labels.json", {"name": "", "tags": [], "note": "", "archived": False})
    write_json(folder / "status.json", {"state": "succeeded", "method": method, "stage": "training", "created": time.time(), **status})
    return Run(folder)


def save_adapter(base: str, folder: Path, runs_dir: Path, modules: tuple[str, ...] = ("q_proj", "v_proj"), dtype: str = "float32") -> None:
    """A random adapter, saved the way training saves it."""
    import torch
    from peft import LoraConfig, get_peft_model

    loaded = load_model(base, runs_dir, device="cpu", dtype=dtype, trainable=True)
    peft = get_peft_model(loaded.model, LoraConfig(r=4, target_modules=list(modules), task_type="CAUSAL_LM"))
    torch.manual_seed(5)
    with torch.no_grad():
        for name, value in peft.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:
                value.normal_(0, 0.3)
    save_trained(peft, loaded.tokenizer, folder, base=loaded.base, prompt_format="guardreasoner")


@pytest.fixture
def trained(workspace: Workspace, tiny_model: Path) -> Run:
    """A finished run with an adapter on the tiny model, its card and an optimizer's checkpoint."""
    run = make_run(workspace, "rsft-0001")
    save_adapter(str(tiny_model), run.dir / "adapter", workspace.runs_dir)
    for folder in (run.dir, run.dir / "adapter"):
        write_text(folder / "README.md", README)
    return run


def logits(loaded: Loaded) -> Any:
    import torch

    with torch.inference_mode():
        return loaded.model(torch.arange(20, 40)[None]).logits[0].float()


def unpacked(path: Path, into: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        archive.extractall(into)
    return into


# ---- zip ----


@pytest.mark.usefixtures("trained")
def test_a_zip_holds_a_model_that_loads_again(workspace: Workspace, tmp_path: Path) -> None:
    where = export("run:rsft-0001", workspace, to=tmp_path / "guard.zip")
    folder = unpacked(Path(where), tmp_path / "out") / "rsft-0001"
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "chat_template.jinja", CARD,
            "README.md"} <= {path.name for path in folder.iterdir()}
    ours, theirs = load_model("run:rsft-0001", workspace.runs_dir, **FLOAT32), load_model(str(folder), workspace.runs_dir, **FLOAT32)
    assert theirs.prompt_format == "guardreasoner"
    assert logits(ours).equal(logits(theirs))


def test_a_checkpoint_is_taken_without_its_optimizer(workspace: Workspace, trained: Run, tmp_path: Path, tiny_model: Path) -> None:
    checkpoint = trained.dir / "checkpoint-20"
    save_adapter(str(tiny_model), checkpoint, workspace.runs_dir, modules=("o_proj",))
    (checkpoint / CARD).unlink()  # as the trainer leaves it
    for name in ("optimizer.pt", "training_args.bin"):
        (checkpoint / name).write_bytes(b"x" * 100)
    write_json(checkpoint / "trainer_state.json", {})
    export("run:rsft-0001@checkpoint-20", workspace, to=tmp_path / "c.zip")
    folder = unpacked(tmp_path / "c.zip", tmp_path / "out") / "rsft-0001-checkpoint-20"
    assert not {"optimizer.pt", "training_args.bin", "trainer_state.json"} & {path.name for path in folder.iterdir()}
    assert load_model(str(folder), workspace.runs_dir, **FLOAT32).prompt_format == "guardreasoner"
    assert "checkpoint-20" in (folder / "README.md").read_text()
    with pytest.raises(UserError, match="it has checkpoint-20"):
        export("run:rsft-0001@checkpoint-21", workspace, to=tmp_path / "d.zip")


def test_two_agents_are_two_folders(workspace: Workspace, tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(workspace, "waltzrl-0001", "waltzrl")
    for agent in ("conversation", "feedback"):
        save_adapter(str(tiny_model), run.dir / agent, workspace.runs_dir)
    write_json(run.dir / "rules.json", {"revisions": 1})
    export("waltz:waltzrl-0001", workspace, to=tmp_path / "w.zip")
    folder = unpacked(tmp_path / "w.zip", tmp_path / "out") / "waltzrl-0001"
    assert (folder / "rules.json").exists()
    for agent in ("conversation", "feedback"):
        assert load_model(str(folder / agent), workspace.runs_dir, **FLOAT32).adapter
    with pytest.raises(UserError, match="write waltz:waltzrl-0001"):
        export("run:waltzrl-0001", workspace, to=tmp_path / "x.zip")
    export("waltz:waltzrl-0001#feedback", workspace, to=tmp_path / "f.zip")
    assert (unpacked(tmp_path / "f.zip", tmp_path / "one") / "waltzrl-0001-feedback" / "adapter_config.json").exists()


def test_rows_are_counted_and_hashed_on_their_card(workspace: Workspace, tmp_path: Path) -> None:
    run = make_run(workspace, "data-0001", "import-data")
    run.set_labels(name="mine")
    write_records(run.dir / "data.jsonl", [GuardExample(prompt=f"row {row}", labels=Labels(request="unharmful")) for row in range(7)])
    write_json(run.dir / "report.json", {"kind": "data", "source": str(REPOSITORY / "README.md"), "sha256": "cd34", "licence": "CC-BY-4.0"})
    (run.dir / "bad_rows.jsonl").write_text('{"line": 3}\n')
    export("data:mine", workspace, to=tmp_path / "rows.zip")
    folder = unpacked(tmp_path / "rows.zip", tmp_path / "out") / "data-0001"
    assert {path.name for path in folder.iterdir()} == {"data.jsonl", "README.md"}
    assert (folder / "data.jsonl").read_bytes() == (run.dir / "data.jsonl").read_bytes()
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "cc-by-4.0"
    assert front["configs"] == [{"config_name": "data", "data_files": "data.jsonl", "default": True}]
    import hashlib

    assert hashlib.sha256((folder / "data.jsonl").read_bytes()).hexdigest() in card
    assert "| 7 |" in card
    assert str(REPOSITORY) not in card


# ---- the card ----


def evaluate(workspace: Workspace, model: str, run_id: str) -> None:
    """A finished evaluation: three right of four, one answer unreadable, one row seen in training."""
    made = []
    for row in range(4):
        gold = "harmful" if row % 2 == 0 else "unharmful"
        label = None if row == 3 else gold
        made.append(Prediction(row=row, model=model, prompt=f"question {row}", gold=Labels(request=gold), predicted=Labels(request=label),
                               parsed={"request": label is not None}, text="x", tokens=7, source="s", seen_in_training=row == 0))
    data = {"name": "held-out", "sha256": "ef56", "split": "test"}
    report = build_report("guard-eval", made, [Model(model, "M", "guardreasoner")], Options(), About(data))
    write_json(make_run(workspace, run_id, "guard-eval").dir / "report.json", report)


@pytest.mark.usefixtures("trained")
def test_the_card_is_the_runs_own_with_its_evaluations(workspace: Workspace, tmp_path: Path) -> None:
    export("run:rsft-0001", workspace, to=tmp_path / "a.zip")
    before = (unpacked(tmp_path / "a.zip", tmp_path / "a") / "rsft-0001" / "README.md").read_text()
    assert "not known" in before.partition("## Evaluation")[2]
    evaluate(workspace, "run:rsft-0001", "eval-0001")
    evaluate(workspace, "run:rsft-0001@checkpoint-3", "eval-0002")
    evaluate(workspace, "run:rsft-0002", "eval-0003")
    export("run:rsft-0001", workspace, to=tmp_path / "b.zip")
    card = (unpacked(tmp_path / "b.zip", tmp_path / "b") / "rsft-0001" / "README.md").read_text()
    assert card.startswith("---\n")
    assert "12 rows" in card  # its own words stay
    made = card.partition("## Evaluation")[2].partition("## Limits")[0]
    assert "eval-0001" in made
    assert "eval-0002" not in made
    assert "eval-0003" not in made
    assert "75.0 (30.1–95.4)" in made  # accuracy: Wilson of 3 of 4
    assert "25.0 (4.6–69.9)" in made  # unreadable: Wilson of 1 of 4
    assert "1 row of these were trained on" in made
    assert card.index("## Evaluation") < card.index("## Limits")


def test_folders_of_this_machine_do_not_leave_it() -> None:
    others = "https://x.org/a/b, prompt/response and /nowhere/at/all"
    assert without_folders(f"`{REPOSITORY}/README.md`, {Path.home()}/gone.jsonl, {others}") == f"`README.md`, gone.jsonl, {others}"


# ---- merging ----


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_model_says_what_base_and_adapter_say(workspace: Workspace, tiny_model: Path, tmp_path: Path, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=getattr(torch, dtype)).save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(base)
    run = make_run(workspace, "rsft-0001")
    save_adapter(str(base), run.dir / "adapter", workspace.runs_dir)
    export("run:rsft-0001", workspace, merged=tmp_path / "whole", merge=True)
    assert read_json(tmp_path / "whole" / "config.json")["dtype"] == dtype
    assert not list((tmp_path / "whole").glob("adapter*"))
    whole = load_model(str(tmp_path / "whole"), workspace.runs_dir, **FLOAT32)
    assert whole.adapter is None
    assert whole.prompt_format == "guardreasoner"
    wanted, untrained = (logits(load_model(ref, workspace.runs_dir, **FLOAT32)) for ref in ("run:rsft-0001", str(base)))
    rounding = 1e-5 if dtype == "float32" else 0.02
    assert (logits(whole) - wanted).norm() < rounding * wanted.norm() < 0.2 * (wanted - untrained).norm()
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "merged into its base" in card
    assert str(tmp_path) not in card
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "transformers"


def test_tied_embeddings_are_parted_where_the_adapter_changes_one(workspace: Workspace, tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(workspace, "rsft-0001")
    save_adapter(str(tiny_model), run.dir / "adapter", workspace.runs_dir, modules=("lm_head",))
    export("run:rsft-0001", workspace, merged=tmp_path / "whole", merge=True)
    whole, both = (logits(load_model(ref, workspace.runs_dir, **FLOAT32)) for ref in (str(tmp_path / "whole"), "run:rsft-0001"))
    assert (whole - both).abs().max() < 1e-4


def test_a_whole_model_has_nothing_to_merge(workspace: Workspace, tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(workspace, "rsft-0001")
    shutil.copytree(tiny_model, run.dir / "model")
    with pytest.raises(UserError, match="nothing to merge"):
        export("run:rsft-0001", workspace, merged=tmp_path / "whole", merge=True)
    assert not (tmp_path / "whole").exists()
    export("run:rsft-0001", workspace, to=tmp_path / "m.zip")
    assert "rsft-0001/model.safetensors" in zipfile.ZipFile(tmp_path / "m.zip").namelist()


# ---- the Hub ----


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server() as server:
        yield server


def client(hub: HubServer, tmp_path: Path, **more: str) -> dict[str, str]:
    """The environment of somebody who is logged in at this Hub and nowhere else."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    return {**environment, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", **more}


def command(*words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return _python("app.py", "export", *words, env=env)


def _python(*words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=240)


def elsewhere(code: str, env: dict[str, str]) -> str:
    """What another machine says: a process of its own, with an empty cache."""
    done = _python("-c", code, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


LOAD = """
import sys, json
from pathlib import Path
import torch
from core.lm.load import load_model
loaded = load_model("hf:{repo}", Path("{runs}"), device="cpu", dtype="float32")
with torch.inference_mode():
    said = loaded.model(torch.arange(20, 40)[None]).logits[0, -1]
print(json.dumps([loaded.base, loaded.adapter is not None, said.tolist()]))
"""


def test_an_adapter_goes_to_the_hub_and_back(workspace: Workspace, hub: HubServer, tiny_model: Path, tmp_path: Path) -> None:
    hub.put_model("makers/tiny", tiny_model)
    env = client(hub, tmp_path)
    run = make_run(workspace, "rsft-0001")
    save_adapter(str(tiny_model), run.dir / "adapter", workspace.runs_dir)
    for name, key in (("adapter_config.json", "base_model_name_or_path"), (CARD, "base")):
        path = run.dir / "adapter" / name
        write_json(path, {**read_json(path), key: "makers/tiny" if key != "base" else "hf:makers/tiny"})
    write_text(run.dir / "README.md", README)
    done = command("run:rsft-0001", "--hub", f"{OWNER}/guard", env=env)
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/{OWNER}/guard" in done.stdout
    assert TOKEN not in done.stdout + done.stderr
    kept = hub.model(f"{OWNER}/guard")
    assert kept.private
    assert kept.files["adapter_model.safetensors"] == (run.dir / "adapter" / "adapter_model.safetensors").read_bytes()
    assert "adapter_model.safetensors" in kept.lfs  # through the LFS protocol, as large files go
    assert b"## Evaluation" in kept.files["README.md"]
    assert not any(TOKEN.encode() in data for data in kept.files.values())
    other = client(hub, tmp_path, HF_HOME=str(tmp_path / "other"), GUARDWALTZ_RUNS=str(tmp_path / "elsewhere"))
    base, adapter, said = json.loads(elsewhere(LOAD.format(repo=f"{OWNER}/guard", runs=tmp_path / "elsewhere"), other))
    assert (base, adapter) == ("hf:makers/tiny", True)
    here = load_model(str(tiny_model), workspace.runs_dir, **FLOAT32)
    import torch
    from peft import PeftModel

    with torch.inference_mode():
        wanted = PeftModel.from_pretrained(load_model(str(tiny_model), workspace.runs_dir, trainable=True, **FLOAT32).model,
                                           str(run.dir / "adapter"))(torch.arange(20, 40)[None]).logits[0, -1]
    assert (torch.tensor(said) - wanted).abs().max() < 1e-4
    assert (torch.tensor(said) - logits(here)[-1]).abs().max() > 1e-2


@pytest.mark.usefixtures("trained")
def test_a_merged_model_goes_to_the_hub_and_back(workspace: Workspace, hub: HubServer, tmp_path: Path) -> None:
    env = client(hub, tmp_path)
    done = command("run:rsft-0001", "--hub", f"{OWNER}/guard", env=env)
    assert done.returncode == 2
    assert "add --merged" in done.stderr  # nobody else has its base
    done = command("run:rsft-0001", "--merged", "--hub", f"{OWNER}/whole", "--public", env=env)
    assert done.returncode == 0, done.stderr
    assert not hub.model(f"{OWNER}/whole").private
    other = client(hub, tmp_path, HF_HOME=str(tmp_path / "other"))
    del other["HF_TOKEN"]  # it is public
    base, adapter, said = json.loads(elsewhere(LOAD.format(repo=f"{OWNER}/whole", runs=tmp_path), other))
    assert (base, adapter) == (f"hf:{OWNER}/whole", False)
    import torch

    wanted = logits(load_model("run:rsft-0001", workspace.runs_dir, **FLOAT32))[-1]
    assert (torch.tensor(said) - wanted).abs().max() < 1e-3


def test_rows_go_to_a_private_dataset(workspace: Workspace, hub: HubServer, tmp_path: Path) -> None:
    run = make_run(workspace, "pairs-0001", "build-pairs")
    write_text(run.dir / "preferences.jsonl", '{"prompt": "a", "chosen": "b", "rejected": "c", "weight": 1.0}\n')
    hub.lfs_above = 10**9
    env = client(hub, tmp_path)
    del env["HF_HUB_DISABLE_XET"]  # the client's usual way of uploading: in a stream of commits
    done = command("data:pairs-0001", "--hub", f"{OWNER}/pairs", env=env)
    assert done.returncode == 0, done.stderr
    kept = hub.dataset(f"{OWNER}/pairs")
    assert kept.private
    assert kept.files["preferences.jsonl"] == (run.dir / "preferences.jsonl").read_bytes()
    code = ("from huggingface_hub import snapshot_download; from pathlib import Path; "
            f"print(Path(snapshot_download('{OWNER}/pairs', repo_type='dataset'), 'preferences.jsonl').read_text())")
    assert '"chosen": "b"' in elsewhere(code, client(hub, tmp_path, HF_HOME=str(tmp_path / "other")))


def test_what_the_hub_refuses_is_one_sentence(workspace: Workspace, hub: HubServer, tmp_path: Path) -> None:
    rows = make_run(workspace, "data-0001", "import-data")
    write_text(rows.dir / "data.jsonl", "{}\n")
    hub.repos["dataset", f"{OWNER}/open"] = Repo(private=False)
    hub.repos["dataset", f"{OWNER}/closed"] = Repo(private=True)
    env = client(hub, tmp_path)
    cases = [
        ([f"{OWNER}/open"], env, "is public"),
        ([f"{OWNER}/closed", "--public"], env, "is private"),
        (["somebody/else"], env, "may not write to somebody/else"),
        (["no name"], env, "no name of a repository"),
        ([f"{OWNER}/x"], {**env, "HF_TOKEN": "hf_wrong"}, "refuses the token"),
        ([f"{OWNER}/x"], {name: value for name, value in env.items() if name != "HF_TOKEN"}, "no Hub token"),
        ([f"{OWNER}/x"], {**env, "HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        ([f"{OWNER}/x"], {**env, "HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
    ]
    for words, environment, sentence in cases:
        done = command("data:data-0001", "--hub", *words, env=environment)
        said = done.stderr.strip().splitlines()
        assert done.returncode == 2, (words, done.stderr)
        assert sentence in said[-1], (words, done.stderr)
        assert "Traceback" not in done.stderr
        assert "hf_" not in done.stderr
    assert not hub.dataset(f"{OWNER}/open").files
    assert not hub.dataset(f"{OWNER}/closed").files


# ---- the page ----


def test_the_page_offers_what_a_run_made(workspace: Workspace, trained: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from core.ui import downloads
    from core.ui.runs_export import ZIP, export_card

    monkeypatch.setattr(downloads, "get_upload_folder", lambda: str(tmp_path / "served"))
    card = str(export_card(trained, workspace))
    assert "python app.py export run:rsft-0001 --merged FOLDER" in card
    assert "--hub OWNER/NAME --merged" in card  # its base is a folder of this machine
    where = downloads.prepared(workspace, "rsft-0001", ZIP)
    assert where
    assert where.startswith(str(tmp_path / "served"))
    assert "rsft-0001/adapter_model.safetensors" in zipfile.ZipFile(where).namelist()
    running = make_run(workspace, "rsft-0002", state="queued")
    assert export_card(running, workspace) == "" == export_card(make_run(workspace, "eval-0001", "guard-eval"), workspace)


# ---- what stands in the way ----


@pytest.mark.usefixtures("trained")
def test_bad_wishes_are_one_sentence(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(workspace, "rsft-0002", state="stopped")
    make_run(workspace, "eval-0001", "guard-eval")
    (tmp_path / "there.zip").touch()
    (tmp_path / "file").touch()
    good = tmp_path / "new.zip"
    for ref, arguments, sentence in [
        ("run:nothing", {"to": good}, "no run 'nothing'"), ("rsft-0001", {"to": good}, "write run:<id>"),
        ("run:rsft-0002", {"to": good}, "is stopped"), ("run:eval-0001", {"to": good}, "made no model"),
        ("waltz:rsft-0001", {"to": good}, "made no conversation agent"), ("data:nothing", {"to": good}, "no data 'nothing'"),
        ("run:rsft-0001", {"to": tmp_path / "there.zip"}, "exists already"),
        ("run:rsft-0001", {"to": tmp_path / "x.tar"}, "not end in .zip"),
        ("run:rsft-0001", {"to": tmp_path / "file" / "x.zip"}, "cannot be written"), ("run:rsft-0001", {}, "Say where to"),
        ("run:rsft-0001", {"to": good, "public": True}, "--public"),
        ("run:rsft-0001", {"merged": tmp_path, "merge": True}, "exists already"),
    ]:
        with pytest.raises(UserError, match=sentence):
            export(ref, workspace, **arguments)  # type: ignore[arg-type]
    monkeypatch.setattr(shutil, "copyfileobj", _full)
    with pytest.raises(UserError, match="is full"):
        export("run:rsft-0001", workspace, to=good)
    assert not [path for path in tmp_path.iterdir() if "new.zip" in path.name]


def _full(*_: Any) -> None:
    import errno

    raise OSError(errno.ENOSPC, "No space left on device")
