"""Every architecture of Transformers' `AutoModelForCausalLM`, built tiny, served, and compared."""
