"""A stand-in for Hugging Face's `spaces` on a ZeroGPU Space, after spaces 0.51: it forks, and writes down who asked for what.

Outside a decorated function it imitates CUDA as the real one does: torch says that a GPU is there, and using it raises. Inside, this
machine's torch is as it is.
"""

import inspect
import json
import multiprocessing
import os
import sys
import threading
from functools import wraps

if "gradio" in sys.modules and not hasattr(sys.modules["gradio"], "Blocks"):
    raise ImportError("gradio is being imported, and must not import this")

import gradio
import torch
from gradio.context import LocalContext

context = multiprocessing.get_context("fork")
decorated = []
forked = False
auto_wrap = True
real = torch.cuda.is_available, torch.cuda.device_count, torch._C.__dict__.get("_cuda_init")


def note(**values):
    with open(os.environ["FAKE_SPACES_LOG"], "a", encoding="utf-8") as file:
        file.write(json.dumps({"pid": os.getpid(), **values}) + "\n")


def refuse():
    raise RuntimeError("CUDA was initialised outside a function that spaces.GPU decorates")


torch.cuda.is_available, torch.cuda.device_count = (lambda: True), (lambda: 1)
torch._C._cuda_init = torch.cuda._lazy_init = refuse
_launch = gradio.Blocks.launch


def _first_launch(*given, **named):
    note(event="startup", functions=[function.__name__ for function in decorated])
    gradio.Blocks.launch = _launch
    return _launch(*given, **named)


gradio.Blocks.launch = _first_launch


def disable_gradio_auto_wrap():
    global auto_wrap
    auto_wrap = False


def gradio_auto_wrap(function):
    assert not auto_wrap or not decorated, "events of the page would be wrapped"
    return function


class Worker:
    """One forked process: reused for the next call, as an idle GPU is."""

    def __init__(self, task):
        self.asked, self.said, self.stop = context.SimpleQueue(), context.SimpleQueue(), context.Event()
        self.process = context.Process(target=self._work, args=(task,), daemon=True)
        self.process.start()

    def _work(self, task):
        global forked
        forked = True
        torch.cuda.is_available, torch.cuda.device_count = real[:2]
        while True:
            given = self.asked.get()
            self.stop.clear()
            thread = threading.Thread(target=self._answer, args=(task, given))
            thread.start()
            thread.join()

    def _answer(self, task, given):
        note(event="computing", function=task.__name__)
        try:
            if not inspect.isgeneratorfunction(task):
                self.said.put(("value", task(*given)))
            else:
                made = task(*given)
                for value in made:
                    if self.stop.is_set():
                        made.close()
                        break
                    self.said.put(("value", value))
            self.said.put(("end", None))
        except Exception as error:
            self.said.put(("error", type(error).__name__))


def GPU(task=None, *, duration=None):
    """See the real one."""
    if task is None:
        return lambda function: GPU(function, duration=duration)
    assert not inspect.iscoroutinefunction(task)
    decorated.append(task)
    workers = []

    def said(given):
        request = LocalContext.request.get(None)
        token = request.headers.get("x-ip-token") if request is not None else None
        seconds = duration(*given) if callable(duration) else duration
        note(event="schedule", function=task.__name__, seconds=seconds, token=token)
        if os.environ.get("FAKE_SPACES_REFUSES"):
            note(event="refused")
            raise gradio.Error("You have exceeded your ZeroGPU quota (60s requested vs. 0s left). ")
        worker = workers.pop() if workers else Worker(task)
        worker.asked.put(given)
        kind = "value"
        try:
            while True:
                kind, value = worker.said.get()
                if kind == "error":
                    raise gradio.Error(value)
                if kind == "end":
                    return
                yield value
        finally:
            worker.stop.set()
            while kind == "value":
                kind, value = worker.said.get()
            workers.append(worker)
            note(event="release", function=task.__name__)

    if inspect.isgeneratorfunction(task):
        @wraps(task)
        def handler(*given):
            yield from said(given)
    else:
        @wraps(task)
        def handler(*given):
            (value,) = said(given)
            return value
    return handler
