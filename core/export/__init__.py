"""Taking home what a run made: a zip, a merged model, or a repository on the Hugging Face Hub. Started by core/export/command.py.

contents.py says which files belong to a reference, card.py completes the run's own README.md, evaluations.py and licence.py find what
it still lacks, archive.py writes files and folders whole or not at all, hub.py uploads. core/lm/merge.py is the only part with torch.
"""
