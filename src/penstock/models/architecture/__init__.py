"""A description of decoder-only models, read from `config.json`, for backends to compute.

`description` has the parts, `families` maps each family's configuration and tensor names to them,
`reading` is the entry point. Imports no torch.
"""
