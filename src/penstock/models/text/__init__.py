"""Tokenizer, chat template and what they tell of a model's dialect."""
