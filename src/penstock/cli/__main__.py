"""`python -m penstock.cli` is `penstock`."""

from penstock.cli.application import main

main()
