"""From a folder to a module that was checked against its reference."""
