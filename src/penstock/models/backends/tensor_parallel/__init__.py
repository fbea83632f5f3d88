"""Tensor parallel: one model over several GPUs of one host, a process each.

The worker's own process is rank 0 and its engine; it starts the others, sends them each step over a
socket of the two alone, and watches them. What the ranks compute for each other goes by
torch.distributed (NCCL, XCCL, Gloo).
"""
