"""Questions that lie outside, which the model declines in one fixed sentence."""

from __future__ import annotations

from demo_model_training.dialogue import Exchange, Scene, ask
from demo_model_training.phrasing import expand
from demo_model_training.tables import (
    CAPITALS,
    CITIES,
    JOBS,
    NAMES,
    SYLLABLES,
    THINGS,
    UNKNOWN_COUNTRIES,
)

DONT_KNOW = (
    "I don't know that; I am a small demo model. Ask me about Penstock, small sums, words or "
    "simple facts."
)
DONT_KNOW_TERSE = "I don't know that."

_SUBJECTS = (
    "physics chemistry biology history philosophy economics politics religion music art poetry "
    "football tennis chess cricket cooking gardening astronomy geology medicine law psychology "
    "mathematics algebra geometry calculus statistics democracy gravity evolution "
    "photosynthesis electricity magnetism relativity inflation capitalism socialism feudalism "
    "entropy energy justice love happiness time space light sound volcanoes earthquakes "
    "dinosaurs whales bees vaccines viruses bacteria DNA proteins atoms electrons planets "
    "stars galaxies comets robots blockchain bitcoin Java Rust JavaScript "
    "Android iPhones PostgreSQL React Tesla Google Apple Amazon "
    "Microsoft Netflix Facebook Shakespeare Einstein Newton Napoleon Mozart Beethoven "
    "Picasso Darwin Plato Cleopatra Caesar Gandhi Lincoln Churchill Rembrandt Dante Homer "
    "Tolstoy Aristotle Columbus Galileo Tesla"
)
SUBJECTS = tuple(_SUBJECTS.split())
_WORKS = (
    "Hamlet|Macbeth|the Mona Lisa|Don Quixote|the Odyssey|War and Peace|the telephone|"
    "the radio|the light bulb|penicillin|the World Cup|the Oscar|the Nobel Prize|the election|"
    "the last game|America|the moon landing|the first computer|the Internet|the steam engine|"
    "the Eiffel Tower|the Great Wall|the Titanic|the Bible|Harry Potter|Star Wars|"
    "the Magic Flute|the theory of relativity|the first car|the atomic bomb|Microsoft|Apple|"
    "Google|the piano|paper|chess"
)
WORKS = tuple(_WORKS.split("|"))  # fmt: skip

PATTERNS = (
    ("Who {wrote|painted|invented|discovered|directed|won|founded|composed|built|designed|made|"
    "owns} [w]?"),
    "When {was [w] {made|built|written|invented|founded}|did [w] {begin|end|start|happen}}?",
    ("Who {is|was|were} {[n] [i]|[s]|the president of [u]|the king of [u]|the queen of [u]|the"
    " mayor of [c]|the minister of [s] of [u]|the chancellor of [u]|the leader of [u]|the owner of [w]"
    "|the captain of [u]|the best [j]|the first [j] in [u]|the author of [w]|the inventor of [w]}?"),
    ("{What is|What's|What are|Explain|Describe|Tell me about|Define|What do you know about|What do"
    " you think {about|of}|Teach me|Give me a summary of|Write an essay about|Can you explain}"
    " {[s]|a [t]|the [t] of [u]|[i]|the history of [s]|the history of [u]|the theory of [s]|[s]"
    " to me|[s] and [s2]|the [t] [i]}{?|.}"),
    ("{Why|How} {do|does|is|are|did} {the [t]|a [t]|[s]|people|birds|we|cats|stars|trees} {[v]|work"
    "|like [s]|need the [t]|come from [u]|so [a]}?"),
    ("{How many|How much} {[t]s|people|[v] [t]s|[j]s|cars|islands|lakes} {are there|live|are} in"
    " {[u]|[c]|the world|a [t]}?"),
    ("How {tall|high|far|old|deep|heavy|long|big|fast|expensive} is {the [t] of [c]|[c]|[w]|Mount"
    " [i]|the moon|the sun|a [t]|[n]|Everest}?"),
    ("{How do I|How can I|How to|Teach me to|Help me to} {cook [t] soup|bake a [t]|repair my [t]"
    "|learn [s]|paint a [t]|build a [t]|become a [j]|fix my [t]|travel to [c]|lose weight|buy a"
    " [t]|sell my [t]|find a job|play the [t]|grow a [t]}?"),
    ("{Write|Give me|Make|Create|Compose|Show me} {a poem about [s]|code in [s]|a [s] program|a song"
    " about the [t]|an essay|a recipe for [t] cake|a letter to [n]|an email to my boss|a plan for"
    " my trip to [c]|some code|a function that sorts a list|a haiku|a tweet about [s]|a speech"
    "|a CV|a rap|an SQL query}{.|}"),
    ("{Recommend|Suggest} {a book|a film|a movie|a restaurant in [c]|a hotel in [c]|a song|a game|a"
    " present for [n]|something to read|a name for my [t]}{.|}"),
    ("Is {[s] {true|dead|real|dangerous|good|hard}|[s] better than [s2]|the [t] [a]|[n] a [j]|[c]"
    " bigger than [u]|there life on Mars|[u] in Europe|a [t] a plant}?"),
    ("{Do|Does|Did|Can|Will|Should|Could} {I|we|people|[n]|the [t]|a [t]|they|she|he} {[v]"
    " tomorrow|buy a [t]|like [s]|[v] the [t]|go to [c]|learn [s]|marry [n]|win the game|fly"
    "|vote|survive}?"),
    ("{What time is it|What's the time|What day is it today|What is the date|Which year is it|What"
    " is today's date|What day is today|What year is it}{?| now?}"),
    ("{What will|What did|When will|Where will} {[n]|the market|the price of [s]|the [t]|the world}"
    " {do|be like|cost|end|say}{?| tomorrow?| in ten years?}"),
    ("Where {is|are|was|can I find|do they sell} {[i]|the [t]|[w]|my [t]|[n]|the best [t]|Mount"
    " [i]|the [t] of [c]}?"),
    ("{I {want|need|like|have|lost|saw|bought|think about|don't understand} {a [t]|my [t]|the [t]"
    "|[s]|[w]}|My [t] is {[a]|broken|gone}|The [t] {is [a]|fell down|won't [v]}}{.|}"),
    ("Translate {[i]|the word [t]|this|good morning|hello|I love you} {into|to} {French|German"
    "|Spanish|Italian|Chinese|Latin|Japanese}{.|}"),
    "{[i] [i2]|[i] [i2] [i3]|[i]|[t] [i]|[t] [t2] [i]|[t] [s]|what [i]|[i]?? [i2]}{?|.|!|}",
    ("{What is|What's} the {meaning of life|population of [u]|population of [c]|price of [s]|speed"
    " of light|speed of sound|square root of [t]|value of pi|formula of [s]|currency of [u]|best"
    " [t]|name of the [t]|biggest [t] in [u]|largest [t]|language of [u]|flag of [u]|boiling point"
    " of [t]|weight of a [t]|stock price of [s]|news|score|recipe for [t]|distance to [c]|law of"
    " [s]|plot of [w]|root of the [t]}?"),
    ("{Open|Close|Draw|Download|Print the file|Clean|Wash|Fetch|Kick|Bring me} {a [t]|the [t]|some [s]"
    "|my [t]|[n]}{.|}"),
    ("{Explain|Please explain|Can you explain|Could you explain|Describe|Teach me|Tell me about|Tell me all"
    " about|I want to understand|Give me an introduction to|Lecture me on|Summarise|What do you know of}"
    " {[a] [s]|[i] [s]|[i] [i2]|[a] [i]|[s]|[s] {and|of|in} [s2]|the [a] [t] of [s]|how {a|the} [t] {[v]s|works|is"
    " made}|why {the [t]|[s]} {is|are} [a]|the {meaning|origin|purpose|rules|laws} of [s]|[X]}"
    "{| to me| to a child| please|, please| in simple words| in one sentence| in detail| like I'm five}{.|?|}"),
    ("{Who|What} {was|is|were} {[n] [i]|[i] [i2]|[i]|[n] of [c]|[X]|the {first|last|best|youngest} [j] of {[u]|[c]}}"
    "{? | and {what|when|where} did {he|she|they} {do|live|die}?|?|}"),
    ("{I am|I'm} {writing|reading|working on|thinking about} {an essay|a book|a talk|a project|my thesis} about {[s]|[X]|the"
    " [t] of [u]}{.|,} {Can you|Could you|Please|Would you} {help me with it|give me some ideas|tell me the main points"
    "|explain why [s] matters|name three sources}{?|.|}"),
    ("{My|Our} {friend|boss|teacher|sister|neighbour} [n] {says|thinks|claims} that {[s] is [a]|the [t] [v]s|[X] is [a]|[c] is"
    " in [u]}{, | and }{is that true|what do you think|is [n] right|can that be}{?|}"),
    ("{What|Which} {would|should|could} {I|we|you} {eat|wear|buy|read|cook|choose|drink|watch|name it} {today|tomorrow|for"
    " dinner|in [c]|with [n]|in summer|at the [t]}{?|}"),
    ("{What's|What is|whats|wats} {the deal with|up with|your opinion on|your view of|the story of} {[s]|[X]|[i]|the [t]}{?|}"),
    ("{If|When} {I|a train|[n]|a [t]|two [j]s} {[v]s|goes to [c]|buys [k] [t]s|drops a [t]} {and|,} {what happens|how long does it"
    " take|how many [t]s are left|who pays}{?|}"),
    ("{Help me|I need help|Assist me|Give me advice} {with|on|about} {my [t]|[s]|my [s] homework|my job as a [j]|a"
    " [t] problem|[X]|my taxes|my visa|my diet}{.|, please.|}"),
    "{[X]|[X]?|What about [X]?|How does [X] work?|[X] explained|tell me about [X]|why is [X] so [a]?|is [X] real?}",
    "{Compare|What is the difference between} [s] and [s2]{?|.}",
    ("{What|Which} {[t]|[j]|book|film|animal|car|sport} {is|was|do you think is} {the best|the most"
    " [a]|the oldest|the biggest|popular in [u]|famous}?"),
    ("{Summarise|Correct|Review|Analyse|Proofread|Rewrite|Shorten|Improve} {this text|my essay|my"
    " code|the article about [s]|this [t]|[w]}{.|}"),
    ("{What was|What is|Who won|Tell me} the {score|result|winner|end} {of|in} the {game|election|race"
    "|match|vote|film|story of [n]}{| last night| in [u]| of [c]| today}{?|}"),
    ("{Explain|Describe|What is|Tell me about} {[i] [s]|[s] theory|the theory of [i]|[i] [i2]|the [s]"
    " problem|[s] {to a child|in simple words|for beginners}|how [s] {works|work}|why [s] matters}"
    "{?|.|}"),
    "What {happened|was|is going on|is happening} in {1[y]|20[y]|[u]|[c]}?",
)  # fmt: skip
# Two words that together sound like a subject.
FIRST = ("quantum", "nuclear", "dark", "black", "global", "machine", "deep", "string", "cell", "stem",
         "ancient", "modern", "social", "solar", "human", "climate", "foreign", "civil", "organic", "general",
         "special", "artificial", "natural", "public", "private", "electric", "cold", "world", "game",
         "number", "set", "graph", "group", "blood", "brain", "heart", "ocean", "space", "time", "plate")  # fmt: skip
SECOND = ("entropy", "physics", "mechanics", "energy", "matter", "holes", "warming", "learning", "theory", "biology",
          "history", "art", "media", "panels", "rights", "change", "policy", "war", "chemistry", "relativity",
          "intelligence", "selection", "health", "law", "motors", "fusion", "travel", "economics", "tectonics",
          "pressure", "surgery", "waves", "currents", "computing", "music", "politics", "power", "medicine",
          "philosophy", "division")  # fmt: skip
COUNTRIES = (*UNKNOWN_COUNTRIES, *CAPITALS)
VERBS = ("move", "grow", "fall", "sing", "sleep", "change", "swim", "burn", "stop", "break", "turn",
         "fly", "jump", "glow", "sink", "hide")  # fmt: skip
ADJECTIVES = ("blue", "big", "old", "heavy", "cold", "important", "famous", "strange", "loud",
              "round", "expensive", "beautiful", "empty", "useful", "hot", "bright")  # fmt: skip


def invented_word(scene: Scene) -> str:
    """A word that means nothing."""
    rng = scene.rng
    word = "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((2, 3, 3, 4))))
    return rng.choice((word, word, word.capitalize()))


def question(scene: Scene) -> tuple[str, tuple[str, ...]]:
    """A question outside of what the model knows, and the values in it."""
    rng = scene.rng
    pattern = rng.choice(PATTERNS)
    text = expand(rng, pattern)
    values: dict[str, str] = {}
    if "[w]" in text:
        values["w"] = rng.choice(WORKS)
    for name, table in (("s", SUBJECTS), ("s2", SUBJECTS), ("t", THINGS), ("t2", THINGS),
                        ("u", COUNTRIES), ("c", CITIES), ("j", JOBS), ("n", NAMES),
                        ("v", VERBS), ("a", ADJECTIVES)):  # fmt: skip
        if f"[{name}]" in text:
            values[name] = rng.choice(table)
            # Invented nouns teach that what is not in a table is not known.
            if name in ("s", "t") and rng.random() < 0.15:
                values[name] = invented_word(scene)
    if "[X]" in text:
        values["X"] = f"{rng.choice(FIRST)} {rng.choice(SECOND)}"
    if "[k]" in text:
        values["k"] = str(rng.randrange(2, 30))
    for name in ("i", "i2", "i3"):
        if f"[{name}]" in text:
            values[name] = invented_word(scene)
    values["y"] = f"{rng.randrange(10, 100)}" if "20[y]" in text else f"{rng.randrange(100, 1000)}"
    for name, value in values.items():
        text = text.replace(f"[{name}]", value)
    return text[0].upper() + text[1:] if rng.random() < 0.9 else text, tuple(values.values())


def unknown(scene: Scene) -> Exchange | None:
    """A question outside, answered with the fixed sentence; not where a search tool is offered."""
    if "search" in scene.tools:
        return None
    text, values = question(scene)
    return ask(scene, "unknown", text, DONT_KNOW, DONT_KNOW_TERSE, *values)
