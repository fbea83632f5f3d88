"""Makes Penstock's demo model: text generator, tokenizer, training, evaluation.

Run from the repository's root, for example `python -m scripts.demo_model.train --help`.
"""
