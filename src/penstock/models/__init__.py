"""Finds the model that a queue's name means, and loads it.

Models come from folders alone: no library that loads them asks a hub or sends figures about its use,
unless the environment says otherwise before the process starts.
"""

import os as _os

for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    _os.environ.setdefault(_name, "1")
