"""Options of `python app.py serve-guard`. Light: the command line reads this at every start."""

from __future__ import annotations

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """All of them; core/guard/serve.py says what they mean together."""
    parser.add_argument("model", help="the guard: run:<id>, a folder, hf:<hub id>, embedded, openai:<model>@<base url>")
    parser.add_argument("--port", type=int, default=7861)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; any other than this machine's own needs --key")
    parser.add_argument("--key", metavar="${ENV}", help="clients must send Authorization: Bearer; the key comes from that variable")
    parser.add_argument("--confidence", choices=("log-prob", "vote", "none"),
                        help="log-prob: how likely the labels are; vote: samples that agree; default: log-prob where the weights are here")
    parser.add_argument("--samples", type=int, help="answers per vote (2 to 64, default 5)")
    parser.add_argument("--temperature", type=float, help="of the vote (default 1.0); any other answer is the likeliest one")
    parser.add_argument("--max-new-tokens", type=int, help="longest answer; default: what the prompt format says")
    parser.add_argument("--prompt-format", default="auto", help="for a model that stores none")
    parser.add_argument("--max-batch", type=int, default=16, help="interactions that go through the model together")
    parser.add_argument("--max-wait-ms", type=float, default=10.0, help="milliseconds that the first of a batch waits for others")
    parser.add_argument("--max-queue", type=int, default=256, help="interactions that may wait; more are told to come again")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds one may wait before it is told to come again")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:<number> or mps")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="precision of the weights")
    parser.add_argument("--engine", choices=("auto", "own", "vllm", "transformers", "server"), default="auto", help="what generates")
