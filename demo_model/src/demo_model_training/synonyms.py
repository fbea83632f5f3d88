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
throw away|remove|get rid of|discard|wipe
revoke|withdraw|invalidate|take back|cancel
break|fail|go wrong|malfunction
broken|faulty|not working|kaput|busted
copy|duplicate|clone
directory|folder|path|location
read|load|fetch|pull in
write|put|save|record
save|store|keep|persist
worker|worker process|serving process
workers|worker processes
fleet|cluster|installation|setup|system
queue|line|waiting line
port|TCP port|port number
command|instruction|shell command|command line
password|secret|credential|token
key|API key|credential|token
keys|API keys|credentials
website|web page|page|dashboard|UI
log|log file|logfile|trace
logs|log files|logfiles
file|document
files|documents|uploads
cost|price|consume|eat up
expensive|costly|pricey
consumption|usage|use
spreadsheet|CSV file|table|report
watch|monitor|observe|keep an eye on|track
alarm|alert|warning|notification
alarms|alerts|warnings|notifications
measure|benchmark|time|clock
speed|throughput|performance|pace
latency|delay|lag|waiting time
fast|quick|speedy|snappy
faster|quicker|speedier
hang|freeze|get stuck|stall
hangs|freezes|is stuck|stalls|is frozen
stuck|frozen|blocked|hung
silent|mute|unresponsive|dead
dead|gone|down|offline
alive|up|running|online
restart|reboot|bounce|start again
resume|continue|go on|pick up again
pause|suspend|hold|rest
interrupted|cut off|aborted|broken off
cancel|abort|give up|call off
drain|empty|quiesce|take out of service
split|divide|spread|shard|distribute
combine|join|merge|unite
choose|decide on|opt for
prefer|like better|favour
protect|secure|guard|safeguard
public|exposed|open to the world
secret|confidential|private
trust|rely on|count on
old|previous|former|legacy
newest|latest|most recent
recent|fresh|new
default|standard|preset
preset|default
maximum|largest|upper limit|cap
minimum|smallest|lower limit|least
number|amount|count|quantity
size|footprint|dimension
length|size|extent
part|piece|component|portion
parts|pieces|components
kind|type|sort|class
kinds|types|sorts
way|method|means|approach|manner
place|spot|location|position
purpose|point|aim|use|sense
meaning|sense|significance
reason|cause|explanation
difference|distinction
example|sample|instance
picture|image|photo
pictures|images|photos
sound|audio|speech
document|text|passage|paragraph
vectors|embeddings
vector|embedding
sort|rank|order
search|look|hunt
token|word piece
tokens|word pieces
conversation|chat|dialogue|talk
chat|talk|converse|speak
laptop|notebook|PC|desktop|MacBook
server|box|node|host
servers|boxes|nodes|hosts
machines|servers|computers|hosts|boxes|nodes
container|docker image
containers|docker images|docker
Kubernetes|k8s
database|store|data store
proxy|reverse proxy|load balancer|balancer|gateway
network|LAN|wire|net
connection|link|session
disconnect|drop out|leave|hang up
colleague|coworker|teammate|boss
team|department|group|company
licence|license|terms of use
free|gratis|open source
team lead|boss|manager
developer|programmer|coder|engineer
beginner|newcomer|novice
important|vital|crucial|urgent
first|in front|ahead
ahead|before others|first
simple|easy|plain|straightforward
complicated|difficult|hard|tricky
strange|odd|weird|funny
wrong|incorrect|off|bad
right|correct|proper
identical|same|equal
different|other|another
different each time|random|varying
repeat|reproduce|do again
reproducible|repeatable|deterministic
forbid|prevent|stop|block|deny
prevent|avoid|keep from|stop
allow|permit|let|enable
enough|sufficient|adequate
hold|contain|include
include|contain|comprise
describe|document|specify
called|named|known as
belongs|goes|lives
lives|sits|resides|is located
located|stored|kept|to be found
look like|appear as
try|attempt|give it a go
fit|suit|go into|match
share|divide|use in common
serve|host|provide|offer
serves|hosts|provides|offers
download|fetch|pull
shrink|compress|reduce|squeeze|make smaller
smaller|tinier|more compact
bits|bit
precision|accuracy|number format
quality|accuracy|goodness
in the background|asynchronously|while I am away|unattended
overnight|in the night|while we sleep
cheap|inexpensive|economical
immediately|at once|right away|instantly
currently|at present|right now|at the moment|now
usually|normally|typically|by default
abroad|elsewhere|on another machine
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
