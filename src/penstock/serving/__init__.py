"""Starts Penstock workers from the command lines of FastChat's and bigdl-llm's model workers."""
