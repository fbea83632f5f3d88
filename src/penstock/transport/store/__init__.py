"""Connections, Lua scripts, documents and leases."""
