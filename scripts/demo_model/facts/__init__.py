"""What the demo model knows about Penstock: topics with many phrasings and one answer each."""

from scripts.demo_model.facts.commands import COMMANDS
from scripts.demo_model.facts.failures import FAILURES
from scripts.demo_model.facts.files import widened, written
from scripts.demo_model.facts.itself import ITSELF
from scripts.demo_model.facts.overview import OVERVIEW
from scripts.demo_model.facts.serving import SERVING
from scripts.demo_model.facts.settings import SETTINGS
from scripts.demo_model.facts.topic import Topic

TOPICS: tuple[Topic, ...] = (
    *widened((*OVERVIEW, *ITSELF, *SERVING, *COMMANDS, *SETTINGS, *FAILURES)),
    *written(),
)

__all__ = ["TOPICS", "Topic"]
