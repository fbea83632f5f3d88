"""The command lines of FastChat's and bigdl-llm's model workers, for a Penstock worker."""
