"""What a decoder-only model is made of, read from its `config.json`, for the backends to compute.

`description` has the parts, `families` maps each family's configuration and tensor names to them,
`reading` is the way in. Imports no torch.
"""
