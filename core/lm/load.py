"""Any model reference becomes a model and a tokenizer in memory; trained models are written so that they load the same way.

Two steps: `find_model` reads small files only (what is the base, is there an adapter, which prompt format), `load_model` loads
the weights. Safetensors only, and code from a model repository never runs.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

from core.files import read_json, write_json
from core.lm.embedded import EMBEDDED_TITLE, ensure_embedded
from core.lm.template import template_hash
from core.methods import UserError
from core.refs import ModelRef, parse_model_ref

CARD = "guardwaltz.json"
"""What save_trained leaves beside the weights: base, prompt format, hash of the chat template."""
NO_ADAPTER = "no_adapter"
"""In the card of an agent that is its base and nothing else, so that no weights lie beside it."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
ADAPTER_PATTERNS = ["adapter_config.json", "adapter_model.safetensors", CARD, "tokenizer*", "special_tokens_map.json",
                    "added_tokens.json", "vocab.json", "merges.txt", "chat_template*"]

Dtype = Literal["auto", "float32", "bfloat16"]
Quantization = Literal["nf4"]


@dataclass(frozen=True)
class Found:
    """Where a model reference leads, before any weights are read."""

    ref: str
    base: str
    """Reference of the full model below; the same as `ref` where there is no adapter."""
    location: str
    """Folder or hub id of the base; "" for the embedded model, which may not be fetched yet."""
    adapter: Path | None = None
    card: dict[str, Any] = field(default_factory=dict)
    revision: str | None = None
    """Commit of the base on the Hub, so that what is loaded is what was looked at, and can be named in a report."""

    @property
    def prompt_format(self) -> str | None:
        """The prompt format stored with the model, if one is."""
        return self.card.get("prompt_format")


class _Base:
    """Weights in memory and the adapters put on them. Shared by every Loaded over the same base."""

    def __init__(self, model: Any, key: tuple[str, ...]) -> None:
        self.model = model
        self.key = key
        self.peft: Any = None
        self.names: dict[tuple[str, int, str], str] = {}
        self.selected: str | None = None
        self.depth = 0
        self.lock = threading.RLock()

    def add(self, folder: Path, trainable: bool = False, called: str = "") -> str:
        """Put an adapter on the base (once) and return its name there. called: its own name, for a copy that nobody else gets."""
        key = (str(folder.resolve()), (folder / "adapter_model.safetensors").stat().st_mtime_ns, called)
        if key in self.names:
            return self.names[key]
        from peft import PeftModel

        name = called or ("default" if not self.names else f"adapter{len(self.names)}")
        options = {"is_trainable": trainable, "torch_device": str(self.model.device),
                   "autocast_adapter_dtype": trainable}  # float32 adapter weights train better; for inference the base's dtype is faster
        try:
            if self.peft is None:
                self.peft = PeftModel.from_pretrained(self.model, str(folder), adapter_name=name, **options)
            else:
                self.peft.load_adapter(str(folder), adapter_name=name, **options)
        except (RuntimeError, ValueError, KeyError) as error:
            _BASES.pop(self.key[1:], None)  # half changed: the next load reads it afresh
            reason = str(error).splitlines()[0][:160]
            raise UserError(f"The adapter in {folder} does not fit its base {self.key[0]} ({reason}); check base_model_name_or_path in its "
                            "adapter_config.json.") from error
        if not hasattr(self.peft.base_model, "disable_adapter_layers"):
            raise UserError(f"The adapter in {folder} is a learned prompt, not added weights, which is not supported; use a LoRA adapter.")
        self.names[key] = name
        if not trainable:
            self.peft.eval()
        self.selected = "?"  # loading changed what is switched on
        return name

    def new(self, name: str, config: Any) -> None:
        """Put a fresh adapter (a LoraConfig) on the base."""
        from peft import get_peft_model

        if self.peft is None:
            self.peft = get_peft_model(self.model, config, adapter_name=name)
        else:
            self.peft.add_adapter(name, config)
        self.selected = "?"

    def select(self, name: str | None) -> None:
        """Switch one adapter on, or all off."""
        if self.peft is None or self.selected == name:
            return
        if name is None:
            self.peft.base_model.disable_adapter_layers()
        else:
            self.peft.base_model.enable_adapter_layers()
            self.peft.set_adapter(name, inference_mode=True)
        self.selected = name


@dataclass
class Loaded:
    """A model ready to answer or to train. Several may share one base: see `model` and `activate`."""

    tokenizer: Any
    ref: str
    base: str
    adapter: Path | None
    prompt_format: str | None
    device: str
    dtype: str
    quantization: str | None
    template_hash: str
    revision: str | None
    trainable: bool
    _weights: _Base
    _name: str | None

    @property
    def model(self) -> Any:
        """The model, with this reference's adapter switched on now (or all off). Ask again after using another one."""
        if self.trainable:
            return self._weights.peft or self._weights.model
        with self._weights.lock:
            self._weights.select(self._name)
            return self._weights.model if self._name is None else self._weights.peft

    @contextmanager
    def activate(self) -> Iterator[Any]:
        """Hold the base for this reference: `with loaded.activate() as model`. Other threads wait, nested uses are restored."""
        weights = self._weights
        with weights.lock:
            before, nested = weights.selected, weights.depth > 0
            weights.depth += 1
            try:
                yield self.model
            finally:
                weights.depth -= 1
                if nested and not self.trainable:
                    weights.select(before)

    def describe(self) -> dict[str, Any]:
        """For env.json and reports."""
        title = EMBEDDED_TITLE if self.base == "embedded" else self.base
        return {"model": self.ref, "base": self.base, "base_title": title, "adapter": str(self.adapter) if self.adapter else None,
                "prompt_format": self.prompt_format, "chat_template_sha256": self.template_hash, "device": self.device,
                "dtype": self.dtype, "quantization": self.quantization,
                "revision": self.revision, "parameters": sum(p.numel() for p in self._weights.model.parameters())}


_BASES: WeakValueDictionary[tuple[str, ...], _Base] = WeakValueDictionary()
_BASES_LOCK = threading.Lock()
_HUB_SEEN: tuple[float, bool] = (-60.0, False)


def load_model(ref: str | ModelRef, runs_dir: Path, *, device: str = "auto", dtype: Dtype = "auto",
               quantization: Quantization | None = None, trainable: bool = False,
               progress: Callable[[int, int | None, str], None] | None = None) -> Loaded:
    """Load a model reference. Inference loads share one base per process; a trainable one is private to the caller.

    trainable: adapter weights (if any) get gradients and float32. Full fine-tuning should ask for dtype="float32".
    """
    found = find_model(ref, runs_dir)
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    location = found.location or str(ensure_embedded(progress))
    where = {"revision": found.revision or "main", "local_files_only": not found.base.startswith("hf:") or not _hub_answers()}
    tokenizer = _tokenizer(found, location, where)
    digest = template_hash(tokenizer)
    _check_template(found, digest)
    weights = _weights(found.base, location, where, place, kind, quantization, share=not trainable)
    with weights.lock:
        name = weights.add(found.adapter, trainable) if found.adapter else None
    return Loaded(tokenizer, found.ref, found.base, found.adapter, found.prompt_format, place, kind, quantization, digest, found.revision,
                  trainable, weights, name)


def load_beside(loaded: Loaded, ref: str | ModelRef, runs_dir: Path, *, trainable: bool = False, called: str = "") -> Loaded:
    """Another model over the very base that `loaded` holds in memory: only its adapter is read. UserError where its base is another one.

    trainable, called: see `_Base.add`. What is returned switches its own adapter on whenever its `model` is asked for.
    """
    found = find_model(ref, runs_dir)
    location = found.location or str(ensure_embedded())
    if (location, str(found.revision or "main")) != loaded._weights.key[1:3]:
        raise UserError(f"{found.ref} sits on {found.base}, and {loaded.ref} on {loaded.base}; two models share one base in memory only "
                        "where it is the same: train both adapters on one base.")
    where = {"revision": found.revision or "main", "local_files_only": not found.base.startswith("hf:") or not _hub_answers()}
    tokenizer = _tokenizer(found, location, where)
    digest = template_hash(tokenizer)
    _check_template(found, digest)
    with loaded._weights.lock:
        name = loaded._weights.add(found.adapter, trainable, called) if found.adapter else None
    return replace(loaded, tokenizer=tokenizer, ref=found.ref, adapter=found.adapter, prompt_format=found.prompt_format,
                   template_hash=digest, trainable=False, _name=name)


def load_tokenizer(found: Found) -> tuple[Any, str]:
    """(tokenizer, folder or hub id of the base) of a model whose weights something else reads, as vLLM does."""
    location = found.location or str(ensure_embedded())
    where = {"revision": found.revision or "main", "local_files_only": not found.base.startswith("hf:") or not _hub_answers()}
    tokenizer = _tokenizer(found, location, where)
    _check_template(found, template_hash(tokenizer))
    return tokenizer, location


def find_model(ref: str | ModelRef, runs_dir: Path) -> Found:
    """What a reference leads to. Reads small files only; asks the Hub for small files of an `hf:` reference."""
    parsed = parse_model_ref(ref) if isinstance(ref, str) else ref
    found = _find(parsed, runs_dir)
    if found.adapter is None:
        return found
    base = _find(_base_of(found), runs_dir)
    if base.adapter is not None:
        raise UserError(f"The base of {parsed} is {base.ref}, itself an adapter; adapters are not stacked: merge {base.ref} "
                        "into its base first.")
    return Found(str(parsed), base.ref, base.location, found.adapter, found.card, base.revision)


def _find(ref: ModelRef, runs_dir: Path) -> Found:
    text = str(ref)
    if ref.kind == "embedded":
        return Found(text, text, "")
    if ref.kind == "hf":
        return _find_on_hub(ref)
    if ref.kind == "path":
        folder = Path(ref.name).expanduser().resolve()
        return replace(_in_folder(text, folder), base=str(folder))  # an adapter trained on it must find it from any folder
    if ref.kind == "run":
        return _in_folder(text, _run_folder(ref.name, runs_dir))
    if ref.kind == "waltz":
        return _find_agent(ref, runs_dir)
    raise UserError(f"{text} is a hosted model and its weights cannot be had; pick embedded, hf:<hub id>, a folder or run:<id>.")


def _run_folder(run_id: str, runs_dir: Path) -> Path:
    folder = runs_dir / run_id
    if "/" in run_id or not folder.is_dir():
        raise UserError(f"There is no run {run_id!r} in {runs_dir}; `python app.py runs` lists them.")
    for name in ("adapter", "model"):
        if (folder / name).is_dir():
            return folder / name
    from core.runs import Run

    state = Run(folder).state
    if state == "succeeded":
        raise UserError(f"Run {run_id} has made no model; pick a training run.")
    raise UserError(f"Run {run_id} is {state} and has no model yet; wait for it or resume it.")


def _find_agent(ref: ModelRef, runs_dir: Path) -> Found:
    """One of the two agents that a run left in `conversation/` and `feedback/`, or in a checkpoint of it."""
    if ref.is_pair:
        raise UserError(f"{ref} is a pair of models, and one model is wanted here; name one of the two, as {ref}#conversation.")
    run = runs_dir / ref.name
    folder = run / ref.checkpoint / ref.agent
    if folder.is_dir():
        card = read_json(folder / CARD, {})
        if card.get(NO_ADAPTER):
            base = _find(parse_model_ref(card["base"]), runs_dir)
            return Found(str(ref), base.base, base.location, None, card, base.revision)
        return _in_folder(str(ref), folder)
    if not run.is_dir():
        raise UserError(f"There is no run {ref.name!r} in {runs_dir}; `python app.py runs` lists them.")
    from core.runs import Run

    there = [path.name for path in Run(run).checkpoints() if (path / ref.agent).is_dir()]
    if ref.checkpoint:
        raise UserError(f"Run {ref.name} has no {ref.checkpoint} with two agents; it has {', '.join(there) or 'none'} of that kind.")
    if (state := Run(run).state) == "succeeded":
        raise UserError(f"Run {ref.name} has made no {ref.agent} agent; pick a waltz-sft or a waltzrl run.")
    later = f", or name a checkpoint, as waltz:{ref.name}@{there[-1]}" if there else ""
    raise UserError(f"Run {ref.name} is {state} and has no {ref.agent} agent yet; wait for it or resume it{later}.")


def _in_folder(ref: str, folder: Path) -> Found:
    if (folder / "adapter_config.json").is_file():
        if not (folder / "adapter_model.safetensors").is_file():
            raise UserError(f"{folder} holds an adapter without adapter_model.safetensors; only safetensors are loaded, so save it again.")
        return Found(ref, ref, str(folder), folder, read_json(folder / CARD, {}))
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is no model: it has neither config.json nor adapter_config.json.")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} holds no *.safetensors file; only safetensors are loaded, so save the model again.")
    return Found(ref, ref, str(folder), None, read_json(folder / CARD, {}))


def _find_on_hub(ref: ModelRef) -> Found:
    """Adapter or full model, told apart by small files; only an adapter's files are all fetched here."""
    if _hub_file(ref.name, "adapter_config.json") is None:
        config = _hub_file(ref.name, "config.json")
        if config is None:
            raise _hub_error(ref.name, FileNotFoundError("no config.json and no adapter_config.json found"))
        card = _hub_file(ref.name, CARD)
        return Found(str(ref), str(ref), ref.name, None, read_json(card, {}) if card else {}, config.parent.name)
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(ref.name, allow_patterns=ADAPTER_PATTERNS, local_files_only=not _hub_answers()))
    except OSError as error:
        raise _hub_error(ref.name, error) from error
    return _in_folder(str(ref), folder)


def _hub_file(repo: str, name: str) -> Path | None:
    """A small file of a hub repository, from the cache when the Hub is out of reach; None where there is none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        return Path(hf_hub_download(repo, name, local_files_only=not _hub_answers()))
    except EntryNotFoundError:
        return None
    except (OSError, HFValidationError) as error:
        raise _hub_error(repo, error) from error


def _hub_answers() -> bool:
    """Asked once a minute: without network the Hub library tries every single file for half a minute before it takes the cache."""
    global _HUB_SEEN
    moment, answer = _HUB_SEEN
    if time.monotonic() - moment < 60:
        return answer
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
        answer = True
    except Exception:  # no network, offline mode, a proxy that refuses: whatever it is, the cache is what is left
        answer = False
    _HUB_SEEN = (time.monotonic(), answer)
    return answer


def _hub_error(repo: str, error: Exception) -> UserError:
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return UserError(f"hf:{repo} is gated; accept its terms on the Hub and set HF_TOKEN.")
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        return UserError(f"The Hub has no model {repo!r} (or it is private); check the id, or set HF_TOKEN.")
    return UserError(f"hf:{repo} is neither in the local Hub cache nor can it be fetched ({str(error).splitlines()[0][:120]}); "
                     "check the network, or copy the model into a folder and name that.")


def _base_of(found: Found) -> ModelRef:
    """The base an adapter was trained on: our own card first, else adapter_config.json (a hub id, a folder or `embedded`)."""
    assert found.adapter is not None
    text = found.card.get("base") or read_json(found.adapter / "adapter_config.json", {}).get("base_model_name_or_path") or ""
    if not text:
        raise UserError(f"{found.adapter}/adapter_config.json names no base_model_name_or_path; write the base model there.")
    if text == "embedded" or text.startswith(("hf:", "run:")) or Path(text).expanduser().is_dir():
        return parse_model_ref(text)
    if text.startswith(("/", "./", "../", "~")) or text.count("/") > 1:
        raise UserError(f"The base of the adapter in {found.adapter} is {text}, which is not a folder here; correct "
                        "base_model_name_or_path.")
    return ModelRef("hf", text)


def _tokenizer(found: Found, location: str, where: dict[str, Any]) -> Any:
    """The tokenizer stored with the adapter, else the base's."""
    from transformers import AutoTokenizer

    own = found.adapter and any((found.adapter / name).is_file() for name in TOKENIZER_FILES)
    try:
        if own:
            tokenizer = AutoTokenizer.from_pretrained(str(found.adapter), trust_remote_code=False, local_files_only=True)
        else:
            tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False, **where)
    except (OSError, ValueError, ImportError) as error:
        raise _load_error(found.base, location, error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _check_template(found: Found, digest: str) -> None:
    stored = found.card.get("chat_template_sha256")
    if stored is not None and stored != digest:
        raise UserError(f"{found.ref} was trained with another chat template (sha256 {stored[:12] or 'none'}) than its tokenizer has now "
                        f"({digest[:12] or 'none'}); put back the chat_template.jinja it was saved with.")


def _weights(base: str, location: str, where: dict[str, Any], device: str, dtype: str, quantization: str | None, *, share: bool) -> _Base:
    key = (location, str(where["revision"]), device, dtype, quantization or "")
    if not share:
        return _Base(_read_weights(base, location, where, device, dtype, quantization), (base, *key))
    with _BASES_LOCK:
        weights = _BASES.get(key)
        if weights is None:
            weights = _BASES[key] = _Base(_read_weights(base, location, where, device, dtype, quantization), (base, *key))
        return weights


def _read_weights(base: str, location: str, where: dict[str, Any], device: str, dtype: str, quantization: str | None) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "use_safetensors": True, "trust_remote_code": False, **where}
    if quantization == "nf4":
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                                            bnb_4bit_compute_dtype=getattr(torch, dtype))
    if device != "cpu" or quantization:
        options["device_map"] = {"": device}
    try:
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(location, **options)
    except (OSError, ValueError, ImportError) as error:
        raise _load_error(base, location, error) from error
    return model.eval()


def _load_error(base: str, location: str, error: Exception) -> UserError:
    if base.startswith("hf:"):
        return _hub_error(location, error)
    return UserError(f"{location} cannot be loaded as a language model ({str(error).splitlines()[0][:160]}); check the folder.")


def pick_device(device: str) -> str:
    """auto = the first GPU, else Apple's, else the CPU. A device that is not there is an error."""
    import torch

    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    name, _, index = device.partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if name not in there or (index and not index.isdigit()):
        raise UserError(f"device = {device!r} is none of auto, cpu, cuda, cuda:<number>, mps.")
    if int(index or 0) >= there[name]:
        raise UserError(f"device = {device!r} is not on this machine ({there[name]} {name} devices); use auto or cpu.")
    return f"cuda:{index or 0}" if name == "cuda" else name


def pick_dtype(dtype: str, device: str) -> str:
    """auto = bfloat16 where the hardware has it. float16 only on older GPUs, never on a CPU (a hundred times slower there)."""
    import torch

    if dtype in ("float32", "bfloat16"):
        return dtype
    if dtype != "auto":
        raise UserError(f"dtype = {dtype!r} is none of auto, float32, bfloat16.")
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"
    return "bfloat16" if device == "cpu" and _cpu_has_bf16() else "float32"


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:  # not Linux
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def save_trained(model: Any, tokenizer: Any, folder: Path, *, base: str, prompt_format: str | None) -> None:
    """Write a trained model so that `load_model` takes it: weights (adapter or full), tokenizer, chat template, card.

    base: reference of the full model the adapter sits on (`Loaded.base`, not the adapter that training continued from).
    Call it inside `run.save_model(lambda folder: save_trained(...))`, which puts the whole folder in place at once.
    """
    from peft import PeftModel

    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PeftModel):
        _save_adapter(model, folder, base)
    else:
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    write_json(folder / CARD, {"base": base, "prompt_format": prompt_format, "chat_template_sha256": template_hash(tokenizer)})


def _save_adapter(model: Any, folder: Path, base: str) -> None:
    names = model.active_adapters
    name = names[0] if isinstance(names, list) else "default"
    # "auto" would look the base up on the Hub to see whether its vocabulary grew
    model.save_pretrained(folder, selected_adapters=[name], save_embedding_layers=False)
    inner = folder / name
    if name != "default" and inner.is_dir():  # PEFT puts every adapter but "default" into a folder of its own
        for file in inner.iterdir():
            file.rename(folder / file.name)
        inner.rmdir()
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's stub with the cache path; the run writes its own card
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base.removeprefix("hf:")
    write_json(folder / "adapter_config.json", config)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars on stderr while weights load: run logs are read by people."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
