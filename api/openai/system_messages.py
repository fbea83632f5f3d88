"""System messages in the midst of a conversation, for protocols whose clients send such.

Most chat templates take one system message, at the head; many refuse another. What comes before any
other message is put together to that one. What comes later keeps its place, so that the prompt up
to there stays the same and is not computed again, and is shown as a user's text between tags.
"""

from __future__ import annotations


def in_place(text: str) -> str:
    """Return a later system message's text as a user's."""
    return f"<system>\n{text}\n</system>"
