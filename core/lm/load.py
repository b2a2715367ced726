"""Any model reference becomes a model and a tokenizer in memory. Safetensors only, and code from a model repository never runs.

find.py says where a reference leads, hub.py fetches small files, device.py picks device and number format, save.py writes what is trained.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

from core.lm.device import Dtype, pick_device, pick_dtype
from core.lm.embedded import EMBEDDED_TITLE, ensure_embedded
from core.lm.find import TOKENIZER_FILES, Found, find_model
from core.lm.hub import hub_answers, hub_error
from core.lm.template import template_hash
from core.methods import UserError
from core.refs import ModelRef

Quantization = Literal["nf4"]


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
    where = {"revision": found.revision or "main", "local_files_only": not found.base.startswith("hf:") or not hub_answers()}
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
    where = {"revision": found.revision or "main", "local_files_only": not found.base.startswith("hf:") or not hub_answers()}
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
    where = {"revision": found.revision or "main", "local_files_only": not found.base.startswith("hf:") or not hub_answers()}
    tokenizer = _tokenizer(found, location, where)
    _check_template(found, template_hash(tokenizer))
    return tokenizer, location


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
        return hub_error(location, error)
    return UserError(f"{location} cannot be loaded as a language model ({str(error).splitlines()[0][:160]}); check the folder.")


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
