"""The command line: `python app.py` opens the app, `python app.py COMMAND` does the rest. What runs here runs there, and back."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.guard.options import add_options as add_guard_options

if TYPE_CHECKING:
    from core.methods import Method
    from core.runs import Run, Workspace

EPILOG = """settings are key=value; aliases such as lr, epochs, batch_size, lora_r work; dir.alpha=0.5 sets one of a group.
  python app.py                               open the app on http://127.0.0.1:7860
  python app.py run rsft data=demo lr=5e-5    train, with the log here; Ctrl-C stops with a checkpoint
  python app.py run rsft --help               every setting of a method
  python app.py recipe rehearsal              a whole study; run it again to go on where it stopped
exit codes: 0 done, 1 failed, 2 wrong input, 3 stopped"""


def main(argv: list[str] | None = None) -> int:
    """Parse and do; UserError becomes one line on stderr and exit code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["run"] and len(arguments) > 1 and not arguments[1].startswith("-") and {"-h", "--help"} & set(arguments[2:]):
        return _guarded(lambda: _method_help(arguments[1]), traceback=False)
    options = _parse(arguments)
    return _guarded(lambda: int(options.act(options) or 0), traceback=options.traceback)


def _parse(arguments: list[str]) -> argparse.Namespace:
    """argparse wants all positional words together; people put options between them (`run rsft --preset paper data=x`)."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(options, "settings") or any(word.startswith("-") for word in rest)):
        parser.error(f"unknown: {' '.join(rest)}")
    if rest:
        options.settings = [*options.settings, *rest]
    return options


def _guarded(act: Callable[[], int], *, traceback: bool) -> int:
    from core.methods import UserError

    try:
        return act()
    except UserError as error:
        if traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` closed the pipe
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python app.py", description="GuardWaltz trains and tests safety guards.", epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _serve_options(parser)
    parser.set_defaults(act=_serve)

    def command(name: str, act: Callable[[Any], int | None], words: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=words, description=words)
        sub.set_defaults(act=act)
        return sub

    ui = command("ui", _serve, "open the app (also what no command does)")
    _serve_options(ui)
    run = command("run", _run, "start a method and follow it")
    run.add_argument("method", nargs="?", help="see `python app.py methods`; not needed with --config")
    run.add_argument("settings", nargs="*", metavar="key=value")
    run.add_argument("--config", type=Path, help="config.yaml of a run, or one like it; key=value overlays it")
    run.add_argument("--preset", help="named settings of the method")
    run.add_argument("--name", default="", help="a name for the run")
    run.add_argument("--detach", action="store_true", help="queue it and return at once")
    run.add_argument("--dry-run", action="store_true", help="check and estimate only")
    recipe = command("recipe", _recipe, "run a study: a YAML chain of runs; goes on where it stopped")
    recipe.add_argument("recipe", help="a name from assets/recipes, or a file")
    recipe.add_argument("settings", nargs="*", metavar="key=value", help="values for the recipe's own settings")
    recipe.add_argument("--fresh", action="store_true", help="start anew instead of going on")
    recipe.add_argument("--detach", action="store_true", help="queue it and return at once")
    demo = command("demo", _demo, "the rehearsal study, watched in the browser (`make demo`)")
    demo.add_argument("--port", type=int, default=7860)
    runs = command("runs", _runs, "list runs")
    runs.add_argument("--json", action="store_true")
    runs.add_argument("--all", action="store_true", help="archived ones and steps too")
    for name, act, words in (("show", _show, "a run's state, settings, result and files"),
                             ("follow", _follow_command, "print the log until it ends"),
                             ("resume", _resume, "go on: same folder, schedule, optimizer and random state"),
                             ("delete", _delete, "remove a run's folder for good")):
        command(name, act, words).add_argument("run")
    stop = command("stop", _stop, "stop a run; it writes a checkpoint first")
    stop.add_argument("run")
    stop.add_argument("--force", action="store_true", help="kill its processes now")
    again = command("continue", _continue, "a new run with a new schedule from a finished run's result")
    again.add_argument("run")
    again.add_argument("settings", nargs="*", metavar="key=value")
    methods = command("methods", _methods, "list methods")
    methods.add_argument("--json", action="store_true", help="with the JSON schema of every config")
    export = command("export", _export, "a zip, a merged model or a repository on the Hub, from a run")
    export.add_argument("what", help="run:<id>, run:<id>@checkpoint-<n>, waltz:<id> (both agents), or data:<name or run id>")
    export.add_argument("--to", type=Path, metavar="FILE.zip", help="weights, tokenizer, template and card (or rows and card) as a zip")
    export.add_argument("--merged", nargs="?", const="", metavar="FOLDER", help="merge the adapter into its unquantised base")
    export.add_argument("--hub", default="", metavar="OWNER/NAME", help="push it there; private unless --public. Needs HF_TOKEN or a login")
    export.add_argument("--public", action="store_true", help="let everybody see what is pushed")
    add_guard_options(command("serve-guard", _serve_guard, "a guard over HTTP: POST /classify, with a description at /docs"))
    command("doctor", _doctor, "versions, devices, disk, keys, plugins, and what to do about what is wrong")
    command("reindex", _reindex, "rebuild the SQLite index from the run folders")
    return parser


def _serve_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--listen", action="store_true", help="accept connections from other machines (needs --auth)")
    parser.add_argument("--share", action="store_true", help="a public Gradio link (needs --auth)")
    parser.add_argument("--auth", metavar="USER:${ENV}", help="login; the password comes from that environment variable")
    parser.add_argument("--root-path", default="", help="path prefix behind a reverse proxy")


def parse_settings(words: list[str]) -> dict[str, Any]:
    """key=value words; values are read as YAML scalars, so 3 is a number, true a truth value and [a, b] a list."""
    import yaml

    from core.methods import UserError

    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"{word!r} is not key=value; write for example learning_rate=5e-5.")
        try:
            value = yaml.safe_load(text) if text.strip() else ""
        except yaml.YAMLError:
            value = text
        if isinstance(value, str):
            value = _float_or_text(text)  # YAML reads 5e-5 as a text
        values[key] = value if value is None or isinstance(value, (bool, int, float, str, list, dict)) else text
    return values


def _float_or_text(text: str) -> float | str:
    try:
        return float(text) if any(c.isdigit() for c in text) else text
    except ValueError:
        return text


def load_config(path: Path) -> tuple[str | None, dict[str, Any]]:
    """(method, settings) of a YAML file in the shape of a run's config.yaml, or of bare settings."""
    import yaml

    from core.methods import UserError

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no file {path}; give the path of a config.yaml.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} holds no settings; expected `method:` and `config:`.")
    if "config" in document and isinstance(document["config"], dict):
        return document.get("method"), document["config"]
    return document.pop("method", None), document


def _run(options: Any) -> int:
    from core.methods import UserError, apply_aliases, with_preset
    from core.runs import Workspace

    workspace = Workspace()
    words, method_name = list(options.settings), options.method
    values: dict[str, Any] = {}
    if options.config:
        if method_name and "=" in method_name:
            words, method_name = [method_name, *words], None
        stored, values = load_config(options.config)
        if method_name and stored and stored != method_name:
            raise UserError(f"{options.config} is of method {stored}, not {method_name}.")
        method_name = method_name or stored
    if not method_name:
        raise UserError("No method given; `python app.py methods` lists them.")
    method = workspace.plugins.method(method_name)
    settings = apply_aliases(method.Config, parse_settings(words))
    values = with_preset(method, options.preset, {**apply_aliases(method.Config, values), **settings})
    if not _passes_checks(workspace, method, values):
        return 2
    if options.dry_run:
        return 0
    return _start_and_follow(workspace, method_name, values, options.name, options.detach)


def _passes_checks(workspace: Workspace, method: type[Method], values: dict[str, Any]) -> bool:
    """Print problems and the estimate; False when an error stands in the way."""
    from core.methods import validate
    from core.preflight import look

    validate(method, values)
    answer = look(workspace, method.name, values)
    for problem in answer.problems:
        print(f"{problem.severity}: {problem.message}", file=sys.stderr)
    if answer.estimate and (answer.estimate.seconds or answer.estimate.usd):
        from core.words import duration

        cost = f", {answer.estimate.usd:.2f} USD" if answer.estimate.usd else ""
        print(f"estimate: {duration(answer.estimate.seconds or 0)}{cost} {answer.estimate.note}".rstrip(), file=sys.stderr)
    return not answer.errors


def _start_and_follow(workspace: Workspace, method: str, values: dict[str, Any], name: str, detach: bool) -> int:
    from core.jobs import submit

    run = submit(workspace, method, values, name=name)
    print(f"{run.id} in {run.dir}")
    return 0 if detach else follow(workspace, run)


def follow(workspace: Workspace, run: Run) -> int:
    """Print the log until the run ends. Ctrl-C asks it to stop; a second one leaves it running."""
    from core.jobs import pump, stop
    from core.runs import FINISHED

    offset, asked = 0, False
    while True:
        try:
            state = run.state
            offset = _print_new(run.dir / "log.txt", offset)
            if state in FINISHED:
                break
            pump(workspace)
            time.sleep(0.3)
        except KeyboardInterrupt:
            if asked:
                print(f"\nleft running; `python app.py follow {run.id}` shows it again")
                return 3
            asked = True
            print("\nstopping; a checkpoint is written first (Ctrl-C again leaves it running)")
            stop(workspace, run)
    _print_new(run.dir / "log.txt", offset)
    status = run.status
    print(f"{run.id} {state}" + (f": {status['message']}" if status.get("message") else ""))
    if state in ("stopped", "lost", "failed"):
        print(f"go on with: python app.py resume {run.id}")
    return {"succeeded": 0, "stopped": 3}.get(state, 2 if status.get("bad_input") else 1)


def _print_new(path: Path, offset: int) -> int:
    if not path.exists():
        return offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    sys.stdout.write(data.decode("utf-8", "replace"))
    sys.stdout.flush()
    return offset + len(data)


def _recipe(options: Any) -> int:
    from core.recipes import find_unfinished, parse_recipe, recipe_path
    from core.runs import Workspace

    workspace = Workspace()
    settings = parse_settings(options.settings)
    parse_recipe(recipe_path(options.recipe).read_text(encoding="utf-8"), options.recipe).values(settings, options.recipe)
    values = {"recipe": options.recipe, "settings": settings}
    earlier = None if options.fresh else find_unfinished(workspace, values)
    if earlier is None:
        return _start_and_follow(workspace, "recipe", values, "", options.detach)
    from core.jobs import resume

    if earlier.state not in ("queued", "running"):
        print(f"going on with {earlier.id} (--fresh starts anew)")
        resume(workspace, earlier)
    return 0 if options.detach else follow(workspace, earlier)


def _demo(options: Any) -> None:
    """Open the app on the rehearsal study: the finished one, the interrupted one (it goes on), or a new one."""
    from core.jobs import resume, submit
    from core.recipes import find_latest
    from core.runs import Workspace
    from core.ui.serve import refuse_taken_port, serve

    refuse_taken_port("127.0.0.1", options.port)
    workspace, values = Workspace(), {"recipe": "rehearsal", "settings": {}}
    run = find_latest(workspace, values)
    if run is None:
        run = submit(workspace, "recipe", values)
    elif run.state in ("stopped", "failed", "lost"):
        resume(workspace, run)
    if run.state == "succeeded":
        print(f"{run.id}: the rehearsal study of before (`python app.py recipe rehearsal --fresh` makes another one)")
    else:
        print(f"{run.id}: the rehearsal study, some minutes on two cores; watch it in the browser")
    serve(port=options.port, page=f"/runs?run={run.id}")


def _named_run(options: Any) -> tuple[Workspace, Run]:
    from core.runs import Workspace

    workspace = Workspace()
    return workspace, workspace.run(options.run)


def _runs(options: Any) -> None:
    import json

    from core.runs import Workspace
    from core.words import ago

    workspace = Workspace()
    shown = [run for run in workspace.runs() if options.all or not (run.labels["archived"] or run.status.get("parent"))]
    if options.json:
        print(json.dumps([{"id": run.id, **run.status, "state": run.state, "name": run.name} for run in shown], indent=2))
        return
    for run in shown:
        print(f"{run.state:<10} {run.id:<14} {run.method:<18} {run.status.get('what', ''):<40} {ago(run.created)}")
    if not shown:
        print(f"no runs in {workspace.runs_dir} yet; `python app.py recipe rehearsal` makes some")


def _show(options: Any) -> None:
    _, run = _named_run(options)
    status = run.status
    print(f"{run.id}  {run.state}  {status.get('message', '')}\n\n{(run.dir / 'config.yaml').read_text()}")
    print((run.dir / "command.sh").read_text().splitlines()[-1], end="\n\n")
    for path in sorted(run.dir.iterdir()):
        print(f"  {path.name}")


def _follow_command(options: Any) -> int:
    return follow(*_named_run(options))


def _resume(options: Any) -> int:
    from core.jobs import resume

    workspace, run = _named_run(options)
    resume(workspace, run)
    return follow(workspace, run)


def _continue(options: Any) -> int:
    from core.jobs import continue_run

    workspace, run = _named_run(options)
    new = continue_run(workspace, run, parse_settings(options.settings))
    print(f"{new.id} continues {run.id} with a new schedule")
    return follow(workspace, new)


def _stop(options: Any) -> None:
    from core.jobs import stop

    workspace, run = _named_run(options)
    stop(workspace, run, force=options.force)
    print(f"{run.id}: stop asked for")


def _delete(options: Any) -> None:
    from core.jobs import delete

    workspace, run = _named_run(options)
    delete(workspace, run)
    print(f"{run.id} deleted")


def _methods(options: Any) -> None:
    import json

    from core.methods import Stage
    from core.runs import Workspace

    methods = Workspace().plugins.methods.values()
    if options.json:
        print(json.dumps([{"name": method.name, "title": method.title, "stage": method.stage, "summary": method.summary,
                           "paper": method.paper, "presets": method.presets, "schema": method.Config.model_json_schema()}
                          for method in methods], indent=2))
        return
    for method in sorted(methods, key=lambda method: list(Stage).index(method.stage)):
        print(f"{method.stage:<11} {method.name:<16} {method.title}: {method.summary}")


def _method_help(name: str) -> int:
    from core.reference import method_text
    from core.runs import Workspace

    print(method_text(Workspace().plugins.method(name)))
    return 0


def _export(options: Any) -> None:
    from core.export.command import export
    from core.runs import Workspace

    folder = Path(options.merged) if options.merged else None
    where = export(options.what, Workspace(), to=options.to, merged=folder, merge=options.merged is not None, hub=options.hub,
                   public=options.public)
    print(f"{options.what} is now in {where}")


def _serve_guard(options: Any) -> int:
    from core.guard.serve import serve_guard

    return serve_guard(options)


def _doctor(_: Any) -> int:
    from core.doctor import examine
    from core.runs import Workspace

    return examine(Workspace())


def _reindex(_: Any) -> None:
    from core.runs import Workspace
    from core.store import reindex

    workspace = Workspace()
    counts = reindex(workspace)
    print("rebuilt: " + ", ".join(f"{count} {what}" for what, count in counts.items()))


def _serve(options: Any) -> None:
    from core.ui.serve import serve

    serve(port=options.port, listen=options.listen, share=options.share, auth=options.auth, root_path=options.root_path)
