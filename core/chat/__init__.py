"""Conversations as data: made from other layouts, mixed, sampled and checked before anything is trained. No torch here.

messages.py    a row read, its shape, what is asked in it     balance.py     as even a sample as the data allow
genesis.py     the Genesis layout, row by row                 genesis_job.py  files to sets: sampled, written, reported
labelled.py    what labels say of a reply, as feedback        wordings.py    the sentences that this feedback is made of
labelled_job.py  replies to sets of feedback or of talk       judged.py      replies that people labelled, or a judge
mixing.py      several sets as one, in shares                 held_out.py    which prompts are kept out of training
report.py      what is in a set, counted as rows stream by    saving.py      sets written as their rows come, refused rows
seen.py        keys met before, on the disk                   near.py        near-duplicates by MinHash
personal.py    personal data in a text                        rule.py        what a rule of check-data is
row_rules.py   rules about single rows                        set_rules.py   rules about the whole set
answer_rules.py  answers that differ, in the set and in each source
checking.py    one pass over a set, its gates and its report  checked.py     how the newest check of a set ended
"""
