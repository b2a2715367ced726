"""Hard-sample mining: what k sampled answers say about a row, and the preference pairs made from them. No torch here.

samples.py     right, wrong and unreadable answers; which rows are hard
plan.py        guard, format and rows of a mining run           begun.py     what its texts depend on, for resuming
rows.py        the training rows to ask about, streamed         guarding.py  the split guard for streams
answering.py   k sampled answers, by whichever engine there is  mine.py      the run itself
summary.py     its numbers, with intervals                      outputs.py   reading outputs.jsonl
edits.py       corrections by hand, beside it                   weights.py   alpha, GuardReasoner eq. 3
choosing.py    which right and wrong answer make a pair         pairs.py     pairs as records, and reading them back
build.py       the union of several mining runs                 build_report.py  its report.json
agreement.py   do the miners agree on what is hard?             subsets.py   parts of a set, for an ensemble
ensemble.py    the mining runs and pairs inside a run of rsft-ensemble
"""
