"""Words and phrases of like meaning, put in each other's place."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

# Words of like meaning, each of which may stand for another of its line.
_LIKE = """
machine|server|computer|host|box
error|failure|problem|fault|issue
find|locate|discover
see|view|look at|check|inspect
show|display|print
change|alter|modify|adjust
set|configure|define
remove|delete|drop
big|large|huge
many|lots of|a lot of|plenty of
several|multiple|a few|some
quickly|fast|rapidly
needed|required|necessary
need|require|want
use|employ|work with|make use of
start|launch|run|fire up|spin up|kick off|boot
stop|halt|end|shut down|terminate
show me|let me see|give me
tell me|let me know|say
how do I|how can I|how do you|how would I|how could I|how might I
what is|what's|what exactly is|whats
possible|feasible|doable
supported|possible|available|offered
answer|reply|response
answers|replies|responses
request|query|call
requests|queries|calls
prompt|input|question
prompts|inputs|questions
model|language model|LLM
models|language models|LLMs
user|client|customer|person
users|clients|customers|people
folder|directory
setting|option|variable|environment variable
memory|RAM
happens|occurs|takes place|goes on
crashes|dies|breaks down|falls over|goes down
crashed|died|broke down|fell over|went down
slow|sluggish|lame
takes|needs|requires
keep|hold|store
kept|stored|saved|held
lost|gone|missing
choose|select|pick
make|create|produce
get|obtain|receive|have
together|at once|simultaneously|in parallel
at once|at the same time|simultaneously|in parallel|concurrently
limit|bound|cap|restrict
why|how come|for what reason
help|assist
works|functions|operates
explain|describe|clarify
somebody|someone|a person
switch on|turn on|enable|activate
switch off|turn off|disable|deactivate
graphics card|GPU|video card|card
the CPU|the processor
a CPU|a processor
connect|hook up|link|attach
listen|answer|respond
put|place|move
again|once more|anew
everything|all of it|the whole thing
wait|queue up|be waiting
free|idle|unused|spare
allowed|permitted
test|try out|try
install|set up|deploy
update|upgrade
"""


def _likes() -> dict[str, tuple[str, ...]]:
    groups = [tuple(line.split("|")) for line in _LIKE.strip().splitlines()]
    return {word: tuple(w for w in group if w != word) for group in groups for word in group[:2]}


LIKES = _likes()
LONGEST = max(len(word.split()) for word in LIKES)


def other_words(rng: random.Random, text: str, share: float) -> str:
    """`text` with about `share` of the words that have others of like meaning put into those.

    What stands in backticks stays as it is.
    """
    words = text.split(" ")
    result: list[str] = []
    i, quoted = 0, False
    while i < len(words):
        for length in range(LONGEST, 0, -1):
            piece = " ".join(words[i : i + length])
            bare = piece.rstrip("?.,!")
            like = LIKES.get(bare) or LIKES.get(bare[:1].lower() + bare[1:] if bare else "")
            if like and not quoted and i + length <= len(words) and rng.random() < share:
                new = like[int(rng.random() * len(like))] + piece[len(bare) :]
                result.append(new[0].upper() + new[1:] if bare[0].isupper() else new)
                i += length
                break
        else:
            quoted ^= words[i].count("`") % 2 == 1
            result.append(words[i])
            i += 1
    return " ".join(result)
