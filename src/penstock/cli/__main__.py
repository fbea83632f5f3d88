"""Makes `python -m penstock.cli` the same as `penstock`."""

from penstock.cli.application import main

main()
