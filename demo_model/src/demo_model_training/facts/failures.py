"""What to do when something fails, and what happens then."""

from __future__ import annotations

from demo_model_training.facts.topic import Topic

FAILURES = (
    Topic(
        "port_taken",
        (
            (
                "{Port 8000|The port|My port|The API port|Port 21001} is {taken|in use|busy|already"
                " taken|already in use|used by another program|occupied}. <FIX>?"
            ),
            "What if {the port|port 8000|a port} is {taken|in use|busy|already in use}?",
            "{Address already in use|address already in use|Error: address already in use}{.|}",
            "<HOW> {use|choose|change to|set|listen on} {another|a different|my own} port?",
            "<HOW> change the port{?| of the API?}",
            "The API {won't start|does not start|can't start} because the port is {taken|busy}.",
        ),
        "The port is taken by another program. Choose another one with `--port`.",
        "Choose another with `--port`.",
    ),
    Topic(
        "unknown_model",
        (
            (
                "<MEANS> {a 404|404|error 404|an error 404|unknown model|status 404|HTTP 404"
                "|404 not found|model not found|an unknown model error}. <FIX>?"
            ),
            "What does {404|error 404|status 404|unknown model|HTTP 404|a 404} mean?",
            "Why do I get {a 404|404|error 404|unknown model}?",
            (
                "{Error 404|404|Unknown model|404 unknown model|Model not found|The model is unknown"
                "|The model is not found}{.|!|?|}"
            ),
            "What if {the model is unknown|my model is not found|the model does not exist}?",
        ),
        "A 404 means that the fleet does not know the model. Run `penstock models` to see the "
        "models that it serves.",
        "Unknown model: run `penstock models`.",
    ),
    Topic(
        "queue_full",
        (
            (
                "<MEANS> {a 429|429|error 429|an error 429|queue full|status 429|HTTP 429"
                "|too many requests|a full queue}. <FIX>?"
            ),
            (
                "What does {429|error 429|status 429|queue full|HTTP 429|a 429|too many requests}"
                " mean?"
            ),
            "Why do I get {a 429|429|error 429|queue full|too many requests}?",
            "{Error 429|429|Queue full|429 queue full|Too many requests|The queue is full}{.|!|?|}",
            (
                "What {if|happens when} {the queue is full|a queue is full|there are too many"
                " requests}?"
            ),
            "<WHATIS> {Retry-After|the Retry-After header}?",
        ),
        "A 429 means that the queue is full. Wait as long as Retry-After says, or add a worker.",
        "Queue full: wait for Retry-After or add a worker.",
    ),
    Topic(
        "no_worker",
        (
            (
                "<MEANS> {a 503|503|error 503|an error 503|no worker|status 503|HTTP 503"
                "|service unavailable|a no worker error}. <FIX>?"
            ),
            (
                "What does {503|error 503|status 503|no worker|HTTP 503|a 503|service unavailable}"
                " mean?"
            ),
            "Why do I get {a 503|503|error 503|no worker|service unavailable}?",
            (
                "{Error 503|503|No worker|503 no worker|Service unavailable|There is no worker"
                "|No worker is running}{.|!|?|}"
            ),
            "What if {no worker runs|there is no worker|no worker is up|no worker is running}?",
        ),
        "A 503 means that no worker serves the model. Start one with `celery -A workers worker "
        "-Q` and the name of the queue.",
        "No worker: start one with celery.",
    ),
    Topic(
        "worker_dies",
        (
            (
                "What {happens|if} {when|if} {a worker|my worker|one worker|the worker} {dies"
                "|crashes|is killed|stops|fails|goes down|is lost|disappears|is shot}?"
            ),
            (
                "{What if|Suppose} {a worker|the worker|one worker} {dies|crashes|is killed|fails}"
                "{?| in the middle of an answer?| while it answers?}"
            ),
            (
                "{My worker|A worker|The worker} {died|crashed|was killed|is dead}. {What now|Is"
                " anything lost|Are my jobs lost|What happens to its jobs}?"
            ),
            "{Are|Do} {jobs|tokens|answers} {lost|get lost} when a worker {dies|crashes|fails}?",
            "Is {anything|something|my answer} lost {when|if} a worker {dies|crashes|fails}?",
            (
                "{How fault tolerant is Penstock|Is Penstock fault tolerant|How does it survive"
                " failures|How safe are my jobs}?"
            ),
            "Can I kill a worker?",
        ),
        "Its jobs go to another worker, which continues at the next token. Nothing is lost, since "
        "every token is in a journal in Redis.",
        "Another worker continues at the next token; nothing is lost.",
    ),
    Topic(
        "journal",
        (
            "<WHATIS> {the journal|a journal|the token journal|the journal in Redis}?",
            "What is the journal for?",
            "Where are the tokens {kept|stored|saved}?",
            "Why is {nothing|no token} lost?",
            "How {does another worker know|does a worker know} where to {continue|go on}?",
        ),
        "The journal is kept in Redis and holds every token of a job, so that another worker can "
        "continue at the next token.",
        "Every token of a job, kept in Redis.",
    ),
    Topic(
        "leases",
        (
            "<WHATIS> {a lease|the lease|leases}?",
            "How long {is|does} a lease{ last|}?",
            "When do leases run out?",
            (
                "How {soon|quickly|fast} {does Penstock notice|is it noticed} that a worker {died"
                "|is dead|is gone}?"
            ),
            "How {does the fleet notice|do you notice|does it notice} a dead worker?",
            "After how many seconds {does a lease end|do leases run out|does a lease run out}?",
        ),
        "A worker holds a lease on each of its jobs. Leases run out after two seconds, and then "
        "the job goes to another worker.",
        "It runs out after two seconds.",
    ),
    Topic(
        "no_xpu",
        (
            (
                "<MEANS> {no xpu found|no xpu|an error about xpu|xpu not found|no Intel GPU found}."
                " <FIX>?"
            ),
            (
                "{No xpu found|no xpu found|xpu not found|No xpu|There is no xpu|xpu is not available"
                "|No Intel GPU is found}{.|!|?|}"
            ),
            (
                "What if {I have no Intel GPU|there is no xpu|no xpu is found|I have no GPU"
                "|no GPU is found}?"
            ),
            (
                "I {have no|don't have an|do not have an} {Intel GPU|xpu|GPU}. {What now|What queue do"
                " I use|Which queue do I use|Can I still use Penstock}?"
            ),
            "My Intel GPU is not found. <FIX>?",
        ),
        "No Intel GPU was found. Use a queue that ends in `-cpu` instead.",
        "Use a `-cpu` queue.",
    ),
    Topic(
        "out_of_memory",
        (
            "<MEANS> {out of memory|an out of memory error|OOM|no memory}. <FIX>?",
            (
                "{Out of memory|out of memory|OOM|The worker is out of memory|I ran out of memory"
                "|The GPU is out of memory|Memory is full|It needs too much memory}{.|!|?|}"
            ),
            (
                "What if {I run out of memory|the model does not fit|memory runs out|the model is too"
                " big|the worker runs out of memory}?"
            ),
            "The model {does not fit|is too big|doesn't fit} {in|into} {memory|my GPU|RAM}. <FIX>?",
            "<HOW> {save|use less|reduce} memory?",
            "<WHATDOES> {the option -c|-c|`-c`} {do|mean}{| for a worker}?",
        ),
        "Give the worker fewer slots with `-c`, or load the model in 4 bit.",
        "Fewer slots with `-c`, or 4 bit.",
    ),
    Topic(
        "redis_unreachable",
        (
            (
                "<MEANS> {Redis unreachable|a Redis error|connection refused|Redis is unreachable"
                "|an error from Redis|cannot connect to Redis}. <FIX>?"
            ),
            (
                "{Redis is unreachable|Redis is down|Redis unreachable|I can't reach Redis|Cannot"
                " connect to Redis|Redis does not answer|Redis is not running|Connection to Redis"
                " refused|Redis connection refused}{.| <FIX>?|. <FIX>?|}"
            ),
            "What if {Redis is down|Redis is unreachable|Redis does not run|Redis is away}?",
            "Why {can it not|can't it} reach Redis?",
        ),
        "Start `redis-server`, or set PENSTOCK_REDIS_URL to the Redis that you have.",
        "Start `redis-server` or set PENSTOCK_REDIS_URL.",
    ),
    Topic(
        "metrics",
        (
            "Where are the metrics?",
            "<HOW> {get|see|scrape|read|find} {the metrics|metrics}{| with Prometheus}?",
            "<WHICH> {path|endpoint|URL} {has|shows|serves|is for} the metrics?",
            "{Are there|Does Penstock have|Does it have} metrics?",
            "<WHATIS> /metrics?",
            "<HOW> monitor {the fleet|Penstock|it}?",
        ),
        "The metrics are at `/metrics` of the API.",
        "`/metrics`",
    ),
    Topic(
        "health",
        (
            (
                "<WHICH> {path|endpoint|URL} {has|shows|serves|is for} {the health|the health check"
                "|health checks}?"
            ),
            "Where is the health {check|endpoint}?",
            "<WHATIS> /health?",
            (
                "<HOW> {check the health|see whether the API is healthy|check that the API is alive}"
                "{| of the API}?"
            ),
            "Is there a {health check|health endpoint|liveness probe}?",
        ),
        "The health check is at `/health` of the API.",
        "`/health`",
    ),
    Topic(
        "readiness",
        (
            (
                "<WHICH> {path|endpoint|URL} {has|shows|serves|is for} {readiness|the readiness check"
                "|readiness checks}?"
            ),
            "Where is the {readiness check|readiness endpoint|readiness probe}?",
            "<WHATIS> /ready?",
            (
                "<HOW> {see whether the fleet is ready|check readiness|know that the fleet is ready"
                "|wait until it is ready}?"
            ),
            "Is there a {readiness check|readiness probe|readiness endpoint}?",
        ),
        "The readiness check is at `/ready` of the API.",
        "`/ready`",
    ),
)
