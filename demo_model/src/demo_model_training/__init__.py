"""Makes Penstock's demo model: text generator, tokenizer, training, evaluation.

Run from the repository's root, for example `python -m demo_model_training.train --help`.
"""
