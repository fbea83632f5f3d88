"""The lean decoder: the Llama family on GPUs, with kernels and graphs of our own."""
