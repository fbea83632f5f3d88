"""Penstock's commands."""

from __future__ import annotations

from demo_model_training.facts.topic import Topic

COMMANDS = (
    Topic(
        "make_demo",
        (
            "<HOW> {start|run|see|try|launch} {the demo|a demo|the whole fleet|everything}?",
            "<HOW> {try|get started with|begin with|set up|try out|start with} Penstock?",
            "<WHATDOES> {make demo|`make demo`|the command make demo} do?",
            "How do I {get started|start|begin}{?| here?}",
            "What is the {quickest|fastest|easiest|simplest} way to {try|start|see} Penstock?",
            "Is there {a demo|a quick start|one command for all}?",
        ),
        "Run `make demo`. It starts the whole fleet with one command.",
        "`make demo`",
    ),
    Topic(
        "make_test",
        (
            "<HOW> run {the tests|all tests|the test suite|tests}?",
            "<WHATDOES> {make test|`make test`} do?",
            "How {is Penstock|is it|do I get it} tested?",
            "Where are the tests{?| and how do I run them?}",
        ),
        "Run `make test`. It runs the tests.",
        "`make test`",
    ),
    Topic(
        "make_check",
        (
            "<HOW> {run the checks|check the code|lint the code|run the linters|run all checks}?",
            "<WHATDOES> {make check|`make check`} do?",
            "What should I run before {a commit|I commit|committing|pushing|I push}?",
        ),
        "Run `make check`. It runs all checks of the code.",
        "`make check`",
    ),
    Topic(
        "start_worker",
        (
            (
                "<HOW> {start|launch|run|bring up|add|create|spin up} {a|a new|another|one} {worker"
                "|Celery worker}{| by hand| for a queue}?"
            ),
            "What is the {command for|command of} a worker?",
            "<WHATDOES> {`celery -A workers worker`|celery -A workers worker} do?",
            "How {are workers|is a worker} started?",
        ),
        "Run `celery -A workers worker -Q bigdl-7b-xpu`, with the name of your queue after -Q.",
        "`celery -A workers worker -Q bigdl-7b-xpu`",
    ),
    Topic(
        "start_api",
        (
            (
                "<HOW> {start|launch|run|bring up} {the API|the front end|the API server|the server"
                "|the FastAPI front end|the HTTP server|the web server}?"
            ),
            "What is the command {for|of} the {API|front end|server}?",
            "<WHATDOES> {`uvicorn api:app`|uvicorn api:app} do?",
            "How is the {API|front end} started?",
        ),
        "Run `uvicorn api:app`. It starts the API on port 8000.",
        "`uvicorn api:app`",
    ),
    Topic(
        "up",
        (
            "<WHATDOES> {penstock up|`penstock up`} do?",
            "<WHATIS> {penstock up|`penstock up`}?",
            "<HOW> start the fleet {with|from} the {penstock command|command line}?",
        ),
        "`penstock up` starts the fleet.",
        "It starts the fleet.",
    ),
    Topic(
        "chat",
        (
            "<WHATDOES> {penstock chat|`penstock chat`} do?",
            "<WHATIS> {penstock chat|`penstock chat`}?",
            (
                "<HOW> {chat|talk} {with|to} {a model|the model|you} {in|from} {the terminal"
                "|a terminal|my terminal|the shell|the command line}?"
            ),
            "<HOW> {chat|chat with a model|talk to a model|talk to you}?",
        ),
        "Run `penstock chat`. It lets you chat with a model in the terminal.",
        "`penstock chat`",
    ),
    Topic(
        "models",
        (
            "<WHATDOES> {penstock models|`penstock models`} do?",
            "<WHATIS> {penstock models|`penstock models`}?",
            (
                "<HOW> {list|see|show|find|get a list of} {the models|all models|the served models"
                "|my models|the available models}?"
            ),
            "<WHICH> models are {served|running|available|loaded|up|there}{?| right now?| now?}",
            "Where do I see {which models|what models} {are there|are served|I have}?",
        ),
        "Run `penstock models`. It lists the models of the fleet.",
        "`penstock models`",
    ),
    Topic(
        "status",
        (
            "<WHATDOES> {penstock status|`penstock status`} do?",
            "<WHATIS> {penstock status|`penstock status`}?",
            (
                "<HOW> {see|check|show|get} {the status|the status of the fleet|what is running"
                "|the state of the fleet|whether the fleet runs|the state of the queues}?"
            ),
            "Is the fleet {running|up|healthy}? How do I see it?",
        ),
        "Run `penstock status`. It shows the state of the fleet.",
        "`penstock status`",
    ),
    Topic(
        "bench",
        (
            "<WHATDOES> {penstock bench|`penstock bench`} do?",
            "<WHATIS> {penstock bench|`penstock bench`}?",
            (
                "<HOW> {measure|benchmark|test} {the speed|the fleet|the performance|the throughput"
                "|my fleet|Penstock}?"
            ),
            "How fast is {it|Penstock|the fleet|my fleet}?",
            "Is there a benchmark?",
        ),
        "Run `penstock bench`. It measures the speed of the fleet.",
        "`penstock bench`",
    ),
    Topic(
        "doctor",
        (
            "<WHATDOES> {penstock doctor|`penstock doctor`} do?",
            "<WHATIS> {penstock doctor|`penstock doctor`}?",
            "<HOW> {diagnose|find} {problems|a problem|what is wrong|the fault|an error}?",
            (
                "Something {is wrong|is broken|does not work|doesn't work|fails}. {Where do I start"
                "|What do I run|What now|How do I find out why}?"
            ),
            "{It does not work|It doesn't work|Nothing works|My fleet is broken}.",
        ),
        "Run `penstock doctor`. It looks for problems and says how to fix them.",
        "`penstock doctor`",
    ),
    Topic(
        "all_commands",
        (
            "<WHICH> commands {are there|does Penstock have|exist|can I use|do you know}?",
            "List {the commands|all commands|the commands of Penstock|Penstock's commands}.",
            "<WHATIS> the {penstock command|command line|penstock CLI|CLI}?",
            "Show me {the commands|all commands|the penstock commands}.",
        ),
        "The commands are `penstock up`, `penstock chat`, `penstock models`, `penstock status`, "
        "`penstock bench` and `penstock doctor`. There are also `make demo`, `make test` and "
        "`make check`.",
        "up, chat, models, status, bench, doctor; make demo, make test, make check.",
    ),
)
