"""What the demo model knows about Penstock: topics with many phrasings and one answer each."""

from demo_model_training.facts.commands import COMMANDS
from demo_model_training.facts.failures import FAILURES
from demo_model_training.facts.files import widened, written
from demo_model_training.facts.itself import ITSELF
from demo_model_training.facts.overview import OVERVIEW
from demo_model_training.facts.serving import SERVING
from demo_model_training.facts.settings import SETTINGS
from demo_model_training.facts.topic import Topic

TOPICS: tuple[Topic, ...] = (
    *widened((*OVERVIEW, *ITSELF, *SERVING, *COMMANDS, *SETTINGS, *FAILURES)),
    *written(),
)

__all__ = ["TOPICS", "Topic"]
