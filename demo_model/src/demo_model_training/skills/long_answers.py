"""Longer answers, so that streaming is there to be seen."""

from __future__ import annotations

from demo_model_training.dialogue import Exchange, Message, Scene
from demo_model_training.phrasing import expand, typed

RIVER = (
    "Once there was a small river in the mountains. It ran fast and loud, but nobody listened.\n\n"
    "One day a builder came and laid a long pipe down the hill. She called it a penstock. The "
    "river was curious and went in. It was dark inside, and the water ran faster and faster.\n\n"
    "At the end of the pipe stood a turbine. The river pushed, and the turbine began to turn. In "
    "the village below a light went on, and then another, until every window was bright.\n\n"
    "From that day on the river was proud of its work. And when the pipe was closed for repair, "
    "the water took another pipe, and no light went out."
)
HERO = (
    "Once there was a [h] who lived near a river. Every day the [h] carried water to the village, "
    "one bucket at a time, and every evening it was tired.\n\n"
    "One morning the [h] had an idea. It built a long pipe from the river to the village. At first "
    "the pipe leaked, but the [h] did not give up. It closed one hole after another.\n\n"
    "At last the water ran all the way by itself. The people of the village clapped, and the [h] "
    "sat down in the sun and slept. It had nothing to carry any more."
)
BATCHING = (
    "Continuous batching is a way to serve many requests at once.\n\n"
    "A model makes one token in each step. A step for many requests costs little more than a step "
    "for one, because the weights are read only once. So a worker puts the requests together into "
    "a batch.\n\n"
    "A simple server waits until the whole batch is done. Short answers then wait for long ones, "
    "and new requests wait outside. With continuous batching the batch changes at every step: a "
    "finished request leaves at once, and a waiting request takes its slot at the next step.\n\n"
    "So the hardware is always busy, new users wait only a moment for their first token, and "
    "nobody waits for a stranger's long answer."
)
TEN_FACTS = (
    "1. Penstock is a self-hosted serving fleet for open language models.\n"
    "2. It runs on Intel CPUs, Intel GPUs and NVIDIA GPUs.\n"
    "3. Requests become jobs in Redis queues, one for each model and device.\n"
    "4. A queue name is the model, a dash and the device, such as bigdl-7b-xpu.\n"
    "5. Celery workers hold the models, loaded with bigdl-llm or Transformers.\n"
    "6. Workers run continuous batching.\n"
    "7. Tokens stream back over Redis pub/sub.\n"
    "8. The FastAPI front end speaks the OpenAI and FastChat protocols on port 8000.\n"
    "9. When a worker dies, another one continues at the next token.\n"
    "10. `make demo` starts the whole fleet with one command."
)
REQUEST = (
    "1. The client sends a request to the API on port 8000.\n"
    "2. The API turns the request into a job.\n"
    "3. The job goes into the Redis queue of its model and device.\n"
    "4. A Celery worker of that queue takes the job and holds a lease on it.\n"
    "5. The worker adds the job to its running batch and makes one token in each step.\n"
    "6. Every token goes into the journal in Redis and out over pub/sub.\n"
    "7. The API sends every token on to the client.\n"
    "8. When the answer is complete, the job leaves the batch."
)
POEM = (
    "The water runs, the water falls,\nthrough narrow pipes and mountain walls.\n"
    "A token here, a token there,\nthe answers travel through the air.\n"
    "And if one worker goes to sleep,\nthe journal has the words to keep."
)
START = (
    "1. Run `penstock doctor` to look for problems.\n"
    "2. Start `redis-server`, or set PENSTOCK_REDIS_URL.\n"
    "3. Put a model into the folder `models`.\n"
    "4. Run `celery -A workers worker -Q` with the name of your queue.\n"
    "5. Run `uvicorn api:app` to start the API on port 8000.\n"
    "6. Point your client to http://127.0.0.1:8000/v1.\n"
    "7. Run `penstock chat` and say hello."
)
ERRORS = (
    "- 404: the model is unknown. Run `penstock models`.\n"
    "- 429: the queue is full. Wait for Retry-After or add a worker.\n"
    "- 503: no worker serves the model. Start one with celery.\n"
    "- Port taken: choose another with `--port`.\n"
    "- No xpu found: use a `-cpu` queue.\n"
    "- Out of memory: use fewer slots with `-c`, or 4 bit.\n"
    "- Redis unreachable: start `redis-server` or set PENSTOCK_REDIS_URL."
)
HEROES = ("fox", "robot", "dog", "cat", "bear", "mouse", "rabbit", "dragon", "boy", "girl", "farmer",
          "wizard", "horse", "princess", "king", "bird", "baker", "pilot", "knight", "duck",
          "turtle", "child", "monkey", "elephant", "penguin", "owl", "giant", "frog")  # fmt: skip

TELL = "{Tell me|Write|Tell|Can you tell me|Can you write|Please write|Please tell me|Give me}"
LONG = "{long|detailed|in detail|at length|in depth|properly}"

ANSWERS: tuple[tuple[str, str], ...] = (
    ((f"{{{TELL} a {{story|short story|long story|tale|fairy tale}}{{| about {{a|the}} {{river|"
     "penstock|turbine|water pipe|mountain river}| about water| about Penstock}{.|?|}|Once upon a"
     " time|Story, please|Story time}"), RIVER),
    (f"{TELL} a {{story|short story|tale|fairy tale|little story}} {{about|of|with}} a [h]{{.|?|}}",
     HERO),
    (("{{Explain|Describe} continuous batching {in detail|at length|in depth|properly|with many words"
     "|in a few paragraphs|step by step|to a beginner|to me in detail}{.|}|{Write|Give me} {a long"
     " explanation|an explanation|a detailed explanation|a text} of continuous batching{.|}|How does"
     " continuous batching work{?| in detail?|, in detail?}|Explain continuous batching{.|}|Why is"
     " continuous batching {fast|good|better|useful}?}"), BATCHING),
    (("{{List|Tell me|Give me|Name|Write} ten {facts|things} about {Penstock|the fleet|this fleet|"
     "this project}{.|}|Ten facts about {Penstock|the fleet}{.|}|{List|Tell me|Give me} 10 {facts|"
     "things} about {Penstock|the fleet}{.|}|{Write|Tell me} {a lot|everything} about {Penstock|the"
     " fleet}{.|}}"), TEN_FACTS),
    (("{{Explain|Describe|Show me|List|Tell me} {the way|the path|the life|the journey} of a request"
     " {step by step|in detail|in steps}{.|}|What are the steps of a request?|How does a request"
     " travel, step by step?|{List|Tell me} the steps of a request{.|}}"), REQUEST),
    ((f"{TELL} a {{poem|verse|song|rhyme}}{{| about {{water|Penstock|a river|the fleet|tokens}}}}"
     "{.|?|}"), POEM),
    (("{{List|Show me|Give me|Explain|Tell me} {all|the} steps to {start|set up|install|run} {Penstock"
     "|the fleet|a fleet}{| by hand}{.|}|How do I {start|set up} {Penstock|the fleet} {step by step|"
     "by hand}?|{Write|Give me} a guide to {Penstock|the fleet}{.|}}"), START),
    (("{{List|Show me|Give me|Explain|Tell me} {all|the} {errors|error codes|failures|problems}"
     "{| and what to do}{| of Penstock}{.|}|{What|Which} {errors|error codes|failures|problems} are"
     " there?|What can go wrong?}"), ERRORS),
)  # fmt: skip


def long_answer(scene: Scene) -> Exchange:
    """One of the longer texts, the same in every style but for the system prompt's manners."""
    rng = scene.rng
    pattern, answer = rng.choice(ANSWERS)
    hero = rng.choice(HEROES)
    question = expand(rng, pattern, h=hero)
    answer = answer.replace("[h]", hero)
    question = typed(rng, question, hero)
    key = "".join(c for c in question.lower() if c.isalnum())
    return Exchange("long", key, (Message("user", question), Message("assistant", answer)))
