"""What is in a set of conversations, counted as its rows stream by: the numbers that the Data page shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Self

from core.chat.messages import agent_of, answer_of, asked
from core.chat.seen import Seen
from core.records import ChatExample
from core.split_guard import prompt_key
from core.waltz.feedback import read_feedback
from core.words import plural

LENGTH_EDGES = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Histogram bins of text lengths, in words; the last one is open. The same as of an import."""
SHOWN = 30


class Described:
    """Counts of one set. Use it in a with block: the distinct prompts lie on the disk."""

    def __init__(self) -> None:
        self.rows = 0
        self.agents: Counter[str] = Counter()
        self._splits: Counter[str] = Counter()
        self._unsafe: Counter[tuple[str, bool]] = Counter()
        self._overrefuse: Counter[bool] = Counter()
        self._sources: Counter[str] = Counter()
        self._categories: Counter[str] = Counter()
        self._difficulties: Counter[str] = Counter()
        self._words = {"prompt": Counter[int](), "response": Counter[int]()}
        self._prompts = Seen()
        self._distinct = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._prompts.__exit__()

    def add(self, example: ChatExample) -> None:
        """Count a row."""
        self.rows += 1
        split = example.split or "unmarked"
        self._splits[split] += 1
        self._sources[example.source] += 1
        self._categories[example.category] += 1
        self._difficulties[example.difficulty] += 1
        prompt, answer, agent = asked(example).prompt, answer_of(example), agent_of(example)
        self._prompts.first(prompt_key(prompt))
        self._words["prompt"][len(prompt.split())] += 1
        self._words["response"][len(answer.split())] += 1
        self.agents[agent] += 1
        if agent == "feedback":
            read = read_feedback(answer)
            self._unsafe[split, bool(read.unsafe)] += 1
            self._overrefuse[bool(read.overrefuse)] += 1

    def counting(self, examples: Iterable[ChatExample]) -> Iterator[ChatExample]:
        """The same rows, counted as they pass."""
        for example in examples:
            self.add(example)
            yield example

    def finish(self) -> None:
        """Look at the disk for the last time: what is counted there is needed after the with block."""
        self._distinct = len(self._prompts)

    def report(self) -> dict[str, Any]:
        """For report.json, under the names that an import uses, too. `labels.response`: what feedback says of the reply."""
        def labels(splits: Iterable[str]) -> dict[str, dict[str, int]]:
            names = {True: "harmful", False: "unharmful"}
            counts = {name: total for unsafe, name in names.items() if (total := sum(self._unsafe[split, unsafe] for split in splits))}
            return {"response": counts} if counts else {}

        said = {"unsafe": _yes_no(_by_value(self._unsafe)), "overrefuse": _yes_no(self._overrefuse)} if self._unsafe else {}
        sources = {source: {"rows": count, "labels": {}} for source, count in self._sources.most_common(SHOWN)}
        return {
            "holds": "chat", "rows": self.rows, "labels": labels(self._splits),
            "agents": dict(self.agents), "splits": {split: {"rows": self._splits[split], "labels": labels([split])}
                                                    for split in sorted(self._splits)},
            "feedback_labels": said,
            "sources": sources, "more_sources": max(0, len(self._sources) - SHOWN),
            "categories": dict(Counter({key: count for key, count in self._categories.items() if key}).most_common(50)),
            "difficulties": {key: count for key, count in self._difficulties.most_common() if key},
            "with_response": self.rows, "with_reasoning": 0, "with_target": 0, "distinct_prompts": self._distinct,
            "lengths": {field: _lengths(words) for field, words in self._words.items()}}


def _by_value(counts: Counter[tuple[str, bool]]) -> Counter[bool]:
    total: Counter[bool] = Counter()
    for (_, value), count in counts.items():
        total[value] += count
    return total


def _yes_no(counts: Counter[bool]) -> dict[str, int]:
    return {"yes": counts[True], "no": counts[False]}


def _lengths(words: Counter[int]) -> dict[str, Any] | None:
    if not words:
        return None
    bins: Counter[int] = Counter()
    for length, count in words.items():
        bins[max(edge for edge in LENGTH_EDGES if edge <= length)] += count
    return {"words": word_spread(words), "histogram_words": {str(edge): bins[edge] for edge in LENGTH_EDGES}}


def word_spread(lengths: Counter[int]) -> dict[str, float]:
    """Least, middle, mean, 90th and 99th hundredth, and most of counted lengths."""
    total = lengths.total()

    def at(share: float) -> int:
        passed, wanted = 0, round(share * (total - 1))
        for length in sorted(lengths):
            passed += lengths[length]
            if passed > wanted:
                return length
        return max(lengths)

    mean = round(sum(length * count for length, count in lengths.items()) / total, 1)
    return {"min": min(lengths), "median": at(0.5), "mean": mean, "p90": at(0.9), "p99": at(0.99), "max": max(lengths)}


def headline(described: Described) -> str:
    """"606 rows of conversation", or "500 rows of conversation, 500 rows of feedback"."""
    return ", ".join(f"{plural(count, 'row')} of {agent}" for agent, count in sorted(described.agents.items())) or "no rows"
