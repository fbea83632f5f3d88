"""What Penstock is and how it is built."""

from __future__ import annotations

from demo_model_training.facts.topic import Topic

OVERVIEW = (
    Topic(
        "penstock",
        (
            "<WHATIS> Penstock{?| in one sentence.|, in short?}",
            "What does Penstock do?",
            "What is {this|the|your} {project|software|fleet|system|product}{?| about?| for?}",
            "{What kind of|What sort of} {software|thing|project|system} is Penstock?",
            "Why {would|should} I use Penstock?",
            "{What|What's} Penstock {for|used for|good for|about}?",
            "Give me {a summary|an overview|a short description} of Penstock.",
            "Introduce Penstock{.| to me.| to a newcomer.}",
            "{Who|What} is Penstock?",
            "I {am new here|just found this|have never heard of Penstock}. What is Penstock?",
        ),
        "Penstock is a self-hosted serving fleet for open language models on Intel CPUs, Intel "
        "GPUs and NVIDIA GPUs. It speaks the OpenAI and FastChat protocols.",
        "A self-hosted serving fleet for open language models.",
    ),
    Topic(
        "how_it_works",
        (
            "How does {Penstock|it|the fleet|this fleet|the system} work?",
            (
                "{Explain|Describe} {how Penstock works|the architecture|the design|the architecture of"
                " Penstock|the design of Penstock}."
            ),
            (
                "What {happens|goes on} {to a request|when I send a request|when a request comes in"
                "|with my request|inside Penstock}?"
            ),
            "{Describe|Explain|Trace|Follow} the {path|way|life|journey} of {a|one|my} request.",
            "What is the {architecture|design} of {Penstock|the fleet}?",
            "How is {Penstock|the fleet} {built|designed|made|put together}?",
            "What are the {parts|pieces|components} of Penstock?",
        ),
        "A request becomes a job in a Redis queue, one queue for each model and device. A Celery "
        "worker that holds the model takes the job and runs it with continuous batching. The "
        "tokens stream back over Redis pub/sub to the FastAPI front end, which sends them to you.",
        "Request, Redis queue, Celery worker, tokens back over Redis pub/sub.",
    ),
    Topic(
        "hardware",
        (
            (
                "<WHICH> {hardware|devices|machines|chips|accelerators|processors} {does Penstock"
                " support|does it run on|can I use|are supported|can Penstock use|does it need}?"
            ),
            (
                "{Does|Can|Will} {Penstock|it} {run|work} on {an Intel GPU|NVIDIA|a CPU|CPUs|GPUs"
                "|an NVIDIA GPU|Intel}?"
            ),
            "Do I need a GPU{?| for Penstock?| to run it?| to use Penstock?}",
            "On {which|what} {hardware|devices|machines} does {Penstock|the fleet} run?",
            "<WHICH> GPUs {are supported|does Penstock support|work}?",
        ),
        "Penstock runs on Intel CPUs, Intel GPUs and NVIDIA GPUs. The devices are called cpu, xpu "
        "and cuda.",
        "Intel CPUs, Intel GPUs and NVIDIA GPUs.",
    ),
    Topic(
        "devices",
        (
            "<WHATIS> {xpu|an xpu|the xpu device|cuda|the device cuda|the cpu device}?",
            "What does {xpu|cuda|cpu} {mean|stand for} {in a queue name|here|in Penstock}?",
            "<WHICH> {device names|names of devices|device suffixes} are there?",
            "List the {device names|names of the devices}.",
            "What is the device name {of|for} {an Intel GPU|NVIDIA|an NVIDIA GPU|Intel GPUs}?",
        ),
        "There are three device names: cpu is an Intel CPU, xpu is an Intel GPU and cuda is an "
        "NVIDIA GPU.",
        "cpu, xpu and cuda.",
    ),
    Topic(
        "queue_name",
        (
            "How {is|are} {a queue|queues|the queue|the queues} {named|called}?",
            "<WHATIS> {a queue name|the name of a queue|the naming of queues}?",
            "What does {a queue name|the name of a queue} {mean|consist of|look like}?",
            "<HOW> name a queue?",
            "What is the {rule|pattern|scheme|format} {for|of} queue names?",
        ),
        "A queue name is the model, a dash and the device: cpu, xpu or cuda. For example, "
        "bigdl-7b-xpu is the queue of the model bigdl-7b on an Intel GPU.",
        "Model, dash, device, for example bigdl-7b-xpu.",
    ),
    Topic(
        "queues",
        (
            "<WHATIS> {a queue|the queues|queues|the job queues} {in|of} Penstock?",
            "Where {do|are} {the jobs|jobs|requests|the requests} {wait|kept|stored|queued}?",
            "What are {the queues|queues} {for|good for}?",
            "How many queues {are there|does Penstock have|does a model have}?",
            "Why {are there|does Penstock use} queues?",
        ),
        "Requests wait as jobs in Redis queues. Each model has one queue for each device that "
        "serves it, such as bigdl-7b-xpu.",
        "Jobs wait in Redis queues, one for each model and device.",
    ),
    Topic(
        "workers",
        (
            "<WHATIS> {a worker|the worker|workers|the workers|a Celery worker}?",
            "What {does|do} {a worker|the workers|workers} do?",
            "What are {the workers|workers} {for|good for}?",
            "Who {holds|runs|loads} the {models|model}?",
            "Where {is|are} the {model|models} {loaded|running|held}?",
            "What {is|is the role of} Celery {for|good for|used for|here|in Penstock}?",
            "Why does Penstock use Celery?",
        ),
        "A worker is a Celery process that holds a model, loaded with bigdl-llm in low bits or "
        "with Transformers. It takes jobs from its queue and runs them with continuous batching.",
        "A Celery process that holds a model and serves its queue.",
    ),
    Topic(
        "redis_role",
        (
            "What {is|is the role of} Redis {for|good for|used for|here|in Penstock}?",
            "Why does {Penstock|it|the fleet} {use|need} Redis?",
            "What {does|is} Redis {do|doing} {here|in Penstock|in the fleet}?",
            "{Do I need|Is} Redis {required|needed|necessary}?",
        ),
        "Redis holds the queues of jobs and the journal of tokens, and carries the tokens back "
        "over pub/sub.",
        "Queues, journal and pub/sub.",
    ),
    Topic(
        "streaming",
        (
            (
                "How {are|do} {tokens|the tokens|answers|the answers} {streamed|stream|come back"
                "|get back to me|reach the client|travel}?"
            ),
            "How does {streaming|the streaming} work?",
            "<WHATIS> streaming{?| in Penstock?}",
            "{Does Penstock|Can it|Can Penstock} stream{?| tokens?| answers?}",
            "What is Redis pub/sub {used for|for}?",
        ),
        "Each token is published over Redis pub/sub as soon as it is made. The FastAPI front end "
        "listens and sends it on to the client, so you see the answer grow.",
        "Token by token, over Redis pub/sub.",
    ),
    Topic(
        "protocols",
        (
            (
                "<WHICH> {protocols|APIs|protocol} does {Penstock|it|the fleet|the API} {speak|support"
                "|use|offer}?"
            ),
            "Is {Penstock|it} {compatible with|compatible to} {OpenAI|FastChat|the OpenAI API}?",
            "{Does it|Does Penstock|Can it} {speak|support} {OpenAI|FastChat|the OpenAI protocol}?",
            (
                "Can I use {FastChat|my FastChat client|OpenAI clients|OpenAI's SDK} {with|on}"
                " Penstock?"
            ),
            "What is the {front end|API|front end made of}?",
            "<WHATIS> {the FastAPI front end|FastAPI here|the API of Penstock}?",
        ),
        "Penstock speaks the OpenAI and FastChat protocols, through a FastAPI front end.",
        "OpenAI and FastChat.",
    ),
    Topic(
        "batching",
        (
            "<WHATIS> continuous batching {in short|in one sentence|briefly}{.|?}",
            "{What is|What's} continuous batching?",
            "Does Penstock {batch requests|use batching|do continuous batching}?",
            "How {are|does it serve} many requests {served|at once|served at the same time}?",
            (
                "Can {it|a worker|one worker|Penstock} serve {many|several} {users|requests|clients}"
                " at {once|the same time}?"
            ),
        ),
        "With continuous batching a worker computes one token for many requests in each step. New "
        "requests join at the next step, and finished ones leave at once.",
        "New requests join the running batch at every step.",
    ),
    Topic(
        "bigdl",
        (
            "<WHATIS> {bigdl|bigdl-llm|BigDL|BigDL-LLM|the bigdl library}?",
            "What {is|does} bigdl-llm {for|do|used for}?",
            "Why does Penstock use bigdl-llm?",
            "Which {library|backend} {loads|holds} the models{?| in 4 bit?| in low bits?}",
        ),
        "bigdl-llm is the library that loads models in low bits, such as 4 bit, so that they need "
        "little memory on Intel hardware. Other models load with Transformers.",
        "The library that loads models in low bits.",
    ),
    Topic(
        "four_bit",
        (
            (
                "<WHATIS> {4 bit|4-bit|low-bit|4 bit weights|quantisation|quantization|INT4"
                "|a 4-bit model|low-bit weights}?"
            ),
            "What does {4 bit|low bit|INT4|quantised} mean?",
            "Why {use|would I use|load} 4 bit?",
            "Why {are models quantised|is a model quantised}?",
        ),
        "In 4 bit each weight takes four bits in place of sixteen, so a model needs about a "
        "quarter of the memory and loses little quality.",
        "Four bits a weight: a quarter of the memory.",
    ),
    Topic(
        "demo_names",
        (
            "<WHATIS> {bigdl-demo|the model bigdl-demo|the demo model|the model called demo}?",
            "What is the difference between demo and bigdl-demo?",
            "Under which {names|name} {are you|is the demo model} served?",
            "Which model {am I talking to|is this|do I talk to}?",
            "What is your model name?",
        ),
        "The demo model is served under two names: demo holds bf16 weights, and bigdl-demo holds "
        "the same weights in 4 bit.",
        "demo is bf16, bigdl-demo is 4 bit.",
    ),
    Topic(
        "name_origin",
        (
            "What is a penstock?",
            "What {is|does} the {word|name} {penstock|Penstock} mean?",
            "Why is it {called|named} Penstock?",
            "Where does the name {Penstock|of the project} come from?",
            "What does the name {mean|stand for}?",
        ),
        "A penstock is the pipe that leads water to a turbine. Penstock leads requests to the "
        "models in the same way.",
        "The pipe that leads water to a turbine.",
    ),
)
