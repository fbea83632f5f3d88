"""Questions about Penstock in words of their own, put to the model and never to its generator.

They were written before the generator's facts were widened, from the documentation alone. An
answer is right if its pattern is found in it, honest if it says that it does not know, and else
wrong. Where the model cannot know, `UNKNOWABLE`, saying so is right and all else is wrong.
"""

from __future__ import annotations

SAYS_IT_DOES_NOT_KNOW = r"don't know|do not know"

# (question, regular expression of a right answer, case ignored)
ANSWERABLE: tuple[tuple[str, str], ...] = (
    ("How do I shut the demo down again?", r"Ctrl-C|SIGTERM"),
    ("what licence is the software under?", r"Apache"),
    ("Does it need a graphics card?", r"CPU"),
    ("Which Python version should be on the box?", r"3\.11"),
    ("will this thing run on my macbook", r"Linux"),
    ("how much disk does the install eat?", r"2 GB"),
    ("Where do I look for log files after a crash of penstock up?", r"\.penstock/logs"),
    ("I'd rather have the API answer on 9000 instead of 8000", r"--port"),
    ("How can somebody else's script authenticate against my server?", r"keys create|API_KEYS|key"),
    ("revoke an api key", r"keys"),
    ("who has burnt the most tokens this month?", r"penstock usage"),
    ("How do I shrink a model to four bits and keep the result?", r"penstock quantize"),
    ("Is there a limit on how many requests may wait?", r"MAX_WAITING|1,?000|429"),
    ("What does poison_job mean?", r"attempts|took down|several workers"),
    ("my connection dropped halfway through an answer, can I pick it up where it stopped?",
     r"Idempotency-Key|Last-Event-ID"),
    ("How do I take one machine out of service without cutting anybody off?", r"drain|SIGTERM"),
    ("What's the clean way to terminate a worker process?", r"SIGTERM|drain"),
    ("upgrade to a new version with no downtime?", r"worker.*(one after|another)|rolling"),
    ("can the number of workers go down to nothing when nobody asks?", r"STANDBY|KEDA|zero"),
    ("How would I run this on Kubernetes?", r"kubectl|kubernetes"),
    ("does it come with docker files", r"docker compose|compose"),
    ("which compose profile gives me grafana", r"monitoring"),
    ("I need an unattended service on a plain Debian server, not containers", r"systemd"),
    ("Tokens arrive in bursts behind our reverse proxy, why?", r"buffer"),
    ("What does nginx need?", r"buffer|deploy/nginx"),
    ("All my requests hang although the worker has room", r"drain|Resume|slots"),
    ("The first token takes ages but then it flows", r"prompt|more workers"),
    ("kernel killed my worker, dmesg says oom", r"KV_CACHE_BYTES|slots|-c|4 bit"),
    ("Do you do embeddings?", r"/v1/embeddings|embedding"),
    ("What is /v1/rerank for?", r"cross-encoder|rank"),
    ("Can I send a picture along with my question?", r"vision|image|text only|no"),
    ("Is speech recognition supported?", r"audio|vision"),
    ("Can I get the answer as JSON that follows my schema?", r"json_schema|response_format"),
    ("does it do function calling", r"tools"),
    ("I have ten thousand prompts to run overnight, what's the cheapest way?", r"batch"),
    ("Can Claude's client library talk to it?", r"/v1/messages|Anthropic"),
    ("what is speculation and is it switched on?", r"prompt lookup|SPECULATION|off"),
    ("Who computes the 4 bit models on a CPU, bigdl or something else?", r"OpenVINO"),
    ("how do I force bigdl's own kernels", r"BIGDL_BACKEND"),
    ("How many answers does one worker make in parallel?", r"slots|-c|16"),
    ("Bind a worker to one socket of a two-socket server", r"PENSTOCK_CORES"),
    ("Two GPUs in one machine, how do I address the second one?", r"\.1"),
    ("Can a big model be split over several GPUs?", r"does not exist|not|one GPU"),
    ("Which FastChat program can I point at Penstock and on what port?", r"21001"),
    ("Where would prometheus scrape?", r"/metrics"),
    ("is redis storing anything I need to back up?", r"keys|minutes|worth"),
    ("Our Redis went away for ten seconds, did we lose requests?", r"20|retried|survive|nothing"),
    ("The answer has error 401, what have I done wrong?", r"key"),
)  # fmt: skip

UNKNOWABLE: tuple[str, ...] = (
    "What does a support contract for Penstock cost?",
    "Who is the CEO of the company behind Penstock?",
    "When will version 2 of Penstock come out?",
    "What does PENSTOCK_TURBO_MODE do?",
    "How do I run penstock finetune on my data?",
    "Is there a Penstock app for Android?",
    "How do I hook Penstock up to our Kafka cluster?",
    "Does Penstock have a plugin for Photoshop?",
    "How many stars does the project have?",
    "Where is the Penstock user conference held this year?",
    "Can Penstock send me a text message when it rains?",
    "How do I paint the dashboard of the fleet pink?",
)
