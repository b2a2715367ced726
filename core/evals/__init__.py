"""Guard evaluation: from rows to answers to report.json. Only asking.py and hard_choosing.py need a
model, and load it inside a function.

rows.py         which rows are asked about           questions.py    what a guard is asked about a row, and what it answered
prompting.py    in which prompt format               asking.py       asking a model, resuming
given.py        answers that exist already           coherence.py    does a reasoning hold together
seen.py         rows that an ancestor trained on     predictions.py  predictions.jsonl: append, go on, look through
scoring.py      scores, breakdowns, comparisons      gates.py        the seeds' success gates
lengths.py      how long answers are                 ticks.py        a person's verdicts on reasonings
hard_subset.py  which rows are hard                  hard_choosing.py  the samples that say so
hard_report.py  every model on the hard rows         report.py       report.json
published.py    the papers' numbers                  suite.py        measured beside published, set by set
problems.py     what check says before the start
"""
