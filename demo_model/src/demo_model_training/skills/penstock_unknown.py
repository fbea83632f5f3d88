"""Questions on Penstock that the model has no answer to, and says so, and where to look."""

from __future__ import annotations

from demo_model_training.dialogue import Exchange, Scene, ask
from demo_model_training.facts import TOPICS
from demo_model_training.frames import framed, placed
from demo_model_training.phrasing import expand
from demo_model_training.skills.unknown import ADJECTIVES, SUBJECTS, VERBS, invented_word
from demo_model_training.synonyms import other_words
from demo_model_training.tables import CITIES, FAVOURITE_COLOURS, NAMES, THINGS

DONT_KNOW = (
    "I don't know that about Penstock. Look in README.md and docs/, or run `penstock --help`."
)
DONT_KNOW_TERSE = "I don't know; see README.md and docs/."

THINGS_UNKNOWN = (
    "{the|a} {price|cost|fee|subscription|service plan|invoice|guarantee|warranty|discount} {of|for} {Penstock|a worker|the software|commercial use}",
    "{the|Penstock's} {CEO|founder|owner|company|head office|investor|team|author|chief developer|logo|mascot|slogan|history|rival|market share}",
    "{the|Penstock's} {roadmap|release date|next version|next release|release notes of version [n]|release schedule|version [n]|plan for next year}",
    "{the|Penstock's} {forum|mailing list|Discord|Slack channel|hotline|phone number|newsletter|meetup in [c]|YouTube channel|Twitter account|blog|podcast}",
    "{the number of|how many} {downloads|users|companies|developers|contributors|employees|customers} {of Penstock|Penstock has|the project has|that use Penstock}",
    "PENSTOCK_[I]",
    "PENSTOCK_[I]_[I2]",
    "the setting PENSTOCK_[I]",
    "{the command |}`penstock [i]`",
    "{the command |}penstock {[i]|train|fine-tune|login|deploy|push|pull|export|import|upgrade|shell|backup|restore|edit|publish|share|plan|top|web|init|config|sync|repair|merge|sell}",
    "{the option|the flag} --[i]",
    "{the file|the folder} [i].{toml|py|txt|yaml|json|cfg}",
    "{the endpoint|the route} /v1/[i]",
    "{the error|the code|the message|error} {`[i]_[i2]`|[i]_[i2]|[i]_failed|E[n][n]}",
    "{a|the} {[s]|[i]|[t]} {plugin|extension|integration|connector|adapter|driver|theme|app|bot|module} {for|of} Penstock",
    "the [t] of {the fleet|a worker|the API|Penstock|the queue|Redis|a model}",
    "the {[a]|[i]} {worker|queue|model|API|mode|cache|port}",
    "the model {[i]|[i]-[n]b|[i]-[i2]}",
    "the alert Penstock[Ic]",
    "{a licence|a certificate|a training course|a book|a T-shirt|a poster|a song|a poem|a film|a paper} {about|of|for|on} Penstock",
    "{[s]|[i]} and Penstock",
    "{[i]|[i] [i2]} in Penstock",
)
ACTS_UNKNOWN = (
    "{connect|integrate|combine|use|link|join} {Penstock|the fleet|a worker|the API} {with|to|and} {[s]|[i]|a [t]|my [t]|our [s] cluster|[s] and [s2]}",
    "{run|start|use|call|try} {`penstock [i]`|penstock [i]|penstock {train|login|deploy|push|pull|import|publish|init|sync|merge}}{| on a model| now}",
    "{train|fine-tune|teach|distil|merge|prune|edit} {a model|my own model|a LoRA|the demo model|Llama} {with|in|on} Penstock",
    "{colour|decorate|rename|redesign|translate|sing|print|frame|wash|bake} {the fleet|the page|a worker|the logo|the queue}{| [f]| in [f]}",
    "{set|change|use|raise|lower} {PENSTOCK_[I]|the [t] of the {worker|queue|API|fleet}|the [a] mode|--[i]}",
    "{buy|order|sell|rent|book|lease|pay for} {Penstock|a worker|support|a licence|a server for Penstock|the software}",
    "{write|build|install|publish|find} a {[s]|[i]|[t]} {plugin|extension|app|driver|client|module} for Penstock",
    "{move|migrate|switch} from {[s]|[i]|[i] [i2]} to Penstock",
    "{send|get|post} {an SMS|an email|a letter|a [t]|a fax|a tweet} {from|by|with} {Penstock|a worker|the fleet}",
    "{contact|meet|phone|email|hire|thank|visit} {the authors|the developers|the company|support|the team|[n2]} {in [c]|of Penstock|by phone|}",
    "[v] {a worker|the queue|the fleet|the API|Redis}",
    "{[v]|move|feed|open|fold|lift} the [t] {of|in|with} {Penstock|the fleet|a worker|the API}",
    "{serve|load|run} {a [t]|[s]|a [i]} {as a model|on a worker|in the fleet}",
)
WHOLE = (
    "{Does|Can|Will|Could} {Penstock|it|the fleet|a worker|the API} {[v]|cook|drive a car|play chess|make coffee|[v] a [t]|predict the weather|order a pizza|control my [t]|play music|write to [n2]|understand [s]|read my mail|work without electricity|speak [s]}?",
    "{Does|Can|Will} {Penstock|it} {support|work with|run with|talk to|integrate with|speak} {[s]|[i]|[i] [i2]|[s] and [s2]}?",
    "Is there {a|an} {[s]|[i]|[t]} {plugin|integration|version|app|client|edition|extension|driver} {of|for} Penstock?",
    "Is there {an app|a version|a client|a plugin} {for|of Penstock for} {iOS|the iPhone|my watch|Excel|WordPress|Alexa|a [t]|[s]}?",
    "{When|On which day} {will|does|did} {version [n]|the next version|Penstock [n]|the new release} {come out|appear|start|arrive|ship|get released}?",
    "{Who|Which company|Which person} {founded|owns|sells|pays for|invented|leads|runs|funds|designed the logo of|uses|bought|wrote the first line of} {Penstock|the project|the software}?",
    "{How much|What} does {Penstock|a service plan|a licence for [n] users|support|a worker|the software|commercial support} cost{?| a month?| per year?}",
    "How many {users|downloads|developers|companies|lines of code|employees|bugs|[t]s} {does Penstock have|has the project|are there in Penstock|use Penstock}?",
    "{Which|What} {colour|day|year|city|country|[t]|bank|university|song} {is|was|belongs to|likes|does} {Penstock|the fleet|a worker|the project} {from|made in|in|best|use}?",
    "Where is {the Penstock office|Penstock's company|the next meetup|Penstock from|the [t] of the fleet}{?| in [c]?}",
    "{Is Penstock|Is it} {better|faster|cheaper|older|nicer|safer|bigger} than {[s]|[i]|[i] [i2]|a [t]}?",
    "{Why|When} {did|does|will} {[n2]|the developers|the company|the team} {leave|[v]|choose [s]|sell Penstock|like [s]|write it in [s]}?",
    "What {do|does} {[n2]|the press|[s]|people in [c]|critics} {think|say|write} {of|about} Penstock?",
    "Compare Penstock {with|and|to} {[s]|[i]|[i] [i2]}.",
)


def _filled(scene: Scene, pattern: str) -> str:
    rng = scene.rng
    text = expand(rng, pattern)
    upper, second = invented_word(scene).upper(), invented_word(scene).upper()
    values = {
        "I": upper if rng.random() < 0.6 else rng.choice(THINGS).upper(),
        "I2": second if rng.random() < 0.5 else rng.choice(THINGS).upper(),
        "Ic": invented_word(scene).capitalize(),
        "i": invented_word(scene).lower(), "i2": invented_word(scene).lower(),
        "s": rng.choice(SUBJECTS), "s2": rng.choice(SUBJECTS), "t": rng.choice(THINGS),
        "a": rng.choice(ADJECTIVES), "v": rng.choice(VERBS), "c": rng.choice(CITIES),
        "n": str(rng.randrange(1, 30)), "n2": rng.choice(NAMES), "f": rng.choice(FAVOURITE_COLOURS),
    }  # fmt: skip
    for name, value in values.items():
        text = text.replace(f"[{name}]", value)
    return text


KNOWN_WORDS = frozenset(
    word.strip("`?.,/").lower()
    for topic in TOPICS
    for field in (topic.acts, topic.things, topic.symptoms, topic.questions)
    for pattern in field
    for word in pattern.replace("{", " ").replace("}", " ").replace("|", " ").split()
)


def penstock_unknown(scene: Scene) -> Exchange | None:
    """A question on Penstock without an answer; not where a search tool is offered."""
    if "search" in scene.tools:
        return None
    rng = scene.rng
    roll = rng.random()
    if roll < 0.4:
        part = _filled(scene, rng.choice(THINGS_UNKNOWN))
        if part in KNOWN_WORDS:
            return None
        text = framed(rng, "things", part)
    elif roll < 0.7:
        text = framed(rng, "acts", _filled(scene, rng.choice(ACTS_UNKNOWN)))
    else:
        text = _filled(scene, rng.choice(WHOLE))
    if rng.random() < 0.4:
        text = other_words(rng, text, 0.3)
    return ask(scene, "penstock_unknown", placed(rng, text), DONT_KNOW, DONT_KNOW_TERSE)
