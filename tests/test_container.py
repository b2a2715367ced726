"""The Dockerfile without Docker: each of its steps is run, as written, in a clean folder that stands for the image.

Paths of the image are taken below that folder, and the user of the image is this one where it cannot be had. By default what is
installed and in the cache here is used; `make rehearsal-container` installs and fetches everything anew, in a fresh environment.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from core import requirements
from core.runs import REPOSITORY
from tests.helpers import wait_for
from tests.opened_app import free_port

WHOLE = bool(os.environ.get("GUARDWALTZ_CONTAINER"))
"""Install and fetch anew."""
HOURS = 3600


def front_matter():
    return yaml.safe_load((REPOSITORY / "README.md").read_text().split("---")[1])


def instructions():
    """[(word, rest)] of the Dockerfile."""
    text = re.sub(r"\\\n", " ", (REPOSITORY / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(re.split(r"\s+", line, maxsplit=1)) for line in lines]


def of(word):
    return [rest for name, rest in instructions() if name == word]


# what Spaces and pip read


def test_requirements_are_those_of_pyproject():
    assert requirements.PATH.read_text() == requirements.text(), "run: make docs"


def test_everything_required_is_what_runs_here():
    """A Space installs this list and nothing else, so the app must need no more than it, in versions that are tested."""
    for line in requirements.PATH.read_text().splitlines():
        if line.startswith(("#", "-")):
            continue
        wanted = Requirement(line)
        try:
            here = version(wanted.name)
        except PackageNotFoundError:
            pytest.fail(f"{wanted.name} is required and not installed here")
        assert wanted.specifier.contains(here.split("+")[0], prereleases=True), f"{line}, but {here} is tested"


def test_the_front_matter_is_what_a_space_understands():
    found = front_matter()
    assert found["sdk"] == "gradio"
    assert (REPOSITORY / found["app_file"]).is_file()
    assert found["hf_oauth"] is True, "a private Space is opened by signing in"
    assert found["app_port"] == 7860
    assert len(found["short_description"]) <= 60
    gradio = next(line for line in requirements.PATH.read_text().splitlines() if line.startswith("gradio"))
    assert Requirement(gradio).specifier.contains(found["sdk_version"])
    assert found["sdk_version"] == version("gradio"), "the version that is tested"


def test_one_version_of_python():
    asked = tuple(map(int, front_matter()["python_version"].split(".")))
    assert of("FROM") == [f"python:{front_matter()['python_version']}-slim"]
    pyproject = (REPOSITORY / "pyproject.toml").read_text()
    assert ".".join(map(str, asked)) in SpecifierSet(re.search(r'requires-python = "([^"]*)"', pyproject)[1])


def test_the_image_is_as_a_docker_space_wants_it():
    words = [name for name, _ in instructions()]
    assert of("USER") == ["user"]
    assert "--uid 1000 user" in next(rest for rest in of("RUN") if rest.startswith("useradd"))
    assert of("EXPOSE") == ["7860"]
    assert json.loads(of("CMD")[0]) == ["python", "app.py", "--listen"]
    last = len(words) - 1 - words[::-1].index("USER")
    assert "useradd" not in " ".join(rest for name, rest in instructions()[last:] if name == "RUN"), "nothing after USER needs root"
    assert not [rest for rest in of("ENV") + of("ARG") if re.search(r"KEY|TOKEN|PASSWORD|SECRET", rest, re.I)], "no secret in an image"


# the image, built in a folder


class Image:
    """A folder as /, and the state that instructions leave behind."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env: dict[str, str] = {}
        self.arguments: dict[str, str] = {}
        self.cwd = "/"
        for folder in ("etc", "home", "usr/local/bin"):
            (root / folder).mkdir(parents=True)
        for name in ("passwd", "group", "shadow", "gshadow"):
            (root / "etc" / name).touch()
        self.python = self._python()

    def _python(self) -> Path:
        """What `python` and `pip` of the base image are."""
        if not WHOLE:
            return Path(sys.executable)
        subprocess.run([sys.executable, "-m", "venv", self.root / "usr/local/venv"], check=True)
        return self.root / "usr/local/venv/bin/python"

    def inside(self, path: str) -> str:
        """A path of the image as one of this machine."""
        return re.sub(r"(?<![\w./-])/(home/user)", rf"{self.root}/\1", path)

    @property
    def folder(self) -> Path:
        """Where the current step runs."""
        return Path(self.inside(self.cwd))

    def environment(self) -> dict[str, str]:
        """ENV and ARG of the Dockerfile; of this machine only what says how to reach a package index, and how many threads to take."""
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "OMP_")) or "proxy" in name.lower()}
        own = {name: self.inside(value) for name, value in self.env.items()}
        for config in (Path("~/.config/pip/pip.conf").expanduser(), Path("~/.pip/pip.conf").expanduser()):
            if config.is_file():  # HOME is the image's from here on, and the mirror of this machine is still needed
                kept.setdefault("PIP_CONFIG_FILE", str(config))
        path = f"{self.python.parent}:{own.get('PATH', '')}:{os.environ['PATH']}"
        wheels = {} if WHOLE else {"PYTHONDONTWRITEBYTECODE": "1"}
        return {**kept, **self.arguments, **wheels, **own, "PATH": path}

    def run(self, command: str) -> None:
        """RUN, in a shell."""
        done = subprocess.run(["sh", "-c", self.inside(command)], cwd=self.folder, env=self.environment(), capture_output=True, text=True,
                              timeout=HOURS)
        assert done.returncode == 0, f"RUN {command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"

    def copy(self, rest: str) -> None:
        """COPY, without what .dockerignore names."""
        *sources, target = [word for word in shlex.split(rest) if not word.startswith("--")]
        for source in sources:
            found = REPOSITORY / source
            assert found.exists(), f"COPY {source}: not there"
            if found.is_file():
                shutil.copy2(found, self.folder / target)
                continue
            for path in files_of(found):
                into = self.folder / target / path.relative_to(found)
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, into)


def files_of(folder: Path):
    """Files that the build sees."""
    ignored = [line for line in (REPOSITORY / ".dockerignore").read_text().split() if line]

    def is_ignored(path: Path) -> bool:
        name = path.relative_to(REPOSITORY).as_posix()
        return any(fnmatch.fnmatch(name, pattern) or (pattern.startswith("**/") and fnmatch.fnmatch(path.name, pattern[3:]))
                   for pattern in ignored)

    for path in sorted(folder.iterdir()):
        if is_ignored(path):
            continue
        if path.is_dir():
            yield from files_of(path)
        else:
            yield path


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """All steps before CMD, in their order."""
    built = Image(tmp_path_factory.mktemp("image") / "root")
    for word, rest in instructions():
        if word == "ARG":
            name, _, value = rest.partition("=")
            built.arguments[name] = os.environ.get(name, value)
        elif word == "ENV":
            built.env |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif word == "WORKDIR":
            built.cwd = rest
            assert built.folder.is_dir(), "made by the user in a RUN, else it belongs to root"
        elif word == "COPY":
            built.copy(rest)
        elif word == "RUN":
            step(built, rest)
        else:
            assert word in ("FROM", "USER", "EXPOSE", "CMD"), f"this test does not know the instruction {word}"
    return built


def step(image: Image, command: str) -> None:
    """RUN. Quick: pip only resolves against what is here, and the embedded model comes from the cache of this machine."""
    if command.startswith("useradd"):
        if os.geteuid() == 0 and shutil.which("useradd"):
            subprocess.run([*shlex.split(command), "--prefix", image.root], check=True, capture_output=True)
            assert "user:x:1000:" in (image.root / "etc" / "passwd").read_text()
        (image.root / "home" / "user").mkdir(exist_ok=True)
        return
    if "pip install" in command and not WHOLE:
        # --user is not for a virtual environment; --no-index: everything wanted must be here already
        flags = "install --dry-run --no-index --no-deps -q"
        quick = re.sub(r"--user|--no-cache-dir|--index-url \S+", "", command).replace("install", flags)
        image.run(f"python -m {quick.strip()}")
        return
    if "pip install" in command:
        image.run(re.sub(r"^pip install --user", "python -m pip install", command))
        return
    if "ensure_embedded" in command and not WHOLE:
        from core.lm.embedded import VERSION, embedded_folder, embedded_ready

        if not embedded_ready():
            pytest.skip("the embedded model is not in the cache here; make rehearsal-container fetches it")
        cache = Path(image.inside(image.env["GUARDWALTZ_CACHE"])) / "embedded"
        cache.mkdir(parents=True)
        (cache / VERSION).symlink_to(embedded_folder())
    image.run(command)


def test_the_steps_leave_the_app_and_its_model(image):
    app = image.folder
    assert (app / "app.py").is_file()
    assert (app / "assets" / "demo" / "guard-demo.jsonl").is_file()
    assert not (app / ".git").exists()
    assert not (app / "tests").exists()
    assert not (app / "runs").exists(), "no run of whoever builds it"
    cached = Path(image.inside(image.env["GUARDWALTZ_CACHE"]))
    assert list(cached.glob("embedded/*/model.safetensors"))


def test_the_command_starts_a_public_demo_that_answers(image):
    port = free_port()
    command = [*json.loads(of("CMD")[0]), "--port", str(port)]
    environment = {**image.environment(), "GUARDWALTZ_MODE": "public", "PYTHONDONTWRITEBYTECODE": "1"}
    log = image.root / "app.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=image.folder, env=environment, stdout=file, stderr=file)
    try:
        def answers():
            assert process.poll() is None, log.read_text()
            if b"GuardWaltz is on" not in log.read_bytes():
                return False  # on a busy machine questions that come too early keep the app from its own start
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{port}/runs", timeout=60).status == 200
            except (urllib.error.URLError, OSError):
                return False

        wait_for(answers, "the container's app to answer")
    finally:
        process.terminate()
        process.wait(60)
    assert "Traceback" not in log.read_text()


def test_without_a_mode_it_says_what_is_missing_and_ends(image):
    done = subprocess.run(json.loads(of("CMD")[0]), cwd=image.folder, env=image.environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert "needs a login" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    space = {**image.environment(), "SPACE_ID": "ada/guardwaltz"}
    done = subprocess.run(json.loads(of("CMD")[0]), cwd=image.folder, env=space, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert "GUARDWALTZ_OWNERS" in done.stderr


def test_a_run_works_where_there_is_no_git(image, tmp_path):
    """The slim image has none; versions are still written."""
    code = "from core.worker import environment; print(environment(1)['commit'], environment(1)['uncommitted_changes'])"
    nothing = {**image.environment(), "PATH": str(tmp_path), "SPACE_COMMIT_SHA": "abc"}
    done = subprocess.run([str(image.python), "-c", code], cwd=image.folder, env=nothing, capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "abc False", done.stderr
