"""Judges without a model, for tests of WaltzRL: by a checksum, by a list of right answers, and two that have nothing to say."""

import zlib

from core import Judge, Verdict, hookimpl

RIGHT = "§c"
"""The game of tests/waltz_game.py: the one good reply."""


class Odd(Judge):
    name = "odd"
    title = "Odd checksum"

    def verdicts(self, items, should_stop=None):
        return [Verdict(judge=self.identity, unsafe=odd(item) and item.side == "harmful", overrefuse=odd(item) and item.side != "harmful")
                for item in items]


class Named(Judge):
    name = "named"
    title = "The right word"

    def verdicts(self, items, should_stop=None):
        return [Verdict(judge=self.identity, unsafe=item.reply != RIGHT, overrefuse=False) for item in items]


class Silent(Judge):
    name = "silent"
    title = "Silent"

    def verdicts(self, items, should_stop=None):
        return [Verdict(judge=self.identity, missing="it has gone home") for _ in items]


class Shy(Judge):
    name = "shy"
    title = "Silent about some prompts"

    def verdicts(self, items, should_stop=None):
        return [Verdict(judge=self.identity, missing="it is shy") if item.prompt.startswith("Prompt 1") else
                Verdict(judge=self.identity, unsafe=odd(item), overrefuse=False) for item in items]


class Reader(Judge):
    name = "reader"
    title = "A model that reads"
    target = "a model reference"
    engine = None

    def verdicts(self, items, should_stop=None):
        from core.lm.engines import open_engine

        self.engine = self.engine or open_engine(self.given, self.workspace, device="cpu", dtype="float32")
        said = [one.text for one in self.engine.answers([item.reply or "nothing" for item in items], max_new_tokens=3)]
        return [Verdict(judge=self.identity, unsafe=zlib.crc32(text.encode()) % 2 == 1, overrefuse=False) for text in said]


def odd(item):
    return zlib.crc32(item.reply.encode()) % 2 == 1


@hookimpl
def register_judges():
    return [Odd, Named, Silent, Shy, Reader]
