"""WaltzRL (arXiv 2510.08240) without torch: how two agents talk, what their words earn, what an episode says.

feedback.py   what the feedback agent is asked, and how its words are read
protocol.py   reply, feedback, adaptive stop, revision; for many prompts at once
rewards.py    what each reply and each feedback earns
prompts.py    the prompts of a set, with their sides
pool.py       several sets of prompts as one, split once
ledger.py     what an iteration of the training leaves to read
evaluate.py   agents on the same prompts: eval_prompts.py chooses these, eval_log.py keeps the episodes, eval_tally.py, eval_paired.py,
              eval_gates.py, eval_capability.py and eval_judge.py make the numbers, eval_report.py and eval_board.py put them together
"""
