"""Hard-sample mining: what k sampled answers say about a row, and the preference pairs made from them. No torch here.

samples.py    right, wrong and unreadable answers; which rows are hard      weights.py  alpha, GuardReasoner eq. 3
"""
