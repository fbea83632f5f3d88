"""Penstock's ports and settings."""

from __future__ import annotations

from demo_model_training.facts.topic import Topic

SETTINGS = (
    Topic(
        "api_port",
        (
            (
                "<WHICH> port {does the API use|is the API on|is the API listening on|does the API"
                " listen on|does Penstock listen on|is the server on|does the front end use}?"
            ),
            "What is the {port of the API|API port|default port|HTTP port|port}?",
            "<TELL> the {API port|port of the API|port number of the API}.",
            "On {which|what} port is the {API|front end|server|HTTP API}?",
            "{Where|At which port} does the {API|front end} listen?",
        ),
        "The API listens on port 8000.",
        "8000",
    ),
    Topic(
        "base_url",
        (
            (
                "<WHATIS> the {OpenAI base URL|base URL|base_url|URL of the API|address of the API"
                "|endpoint|OpenAI endpoint|API address|API URL}?"
            ),
            (
                "<WHICH> {base URL|base_url|URL|address|endpoint} {do I use|should I use|do I give"
                " to the OpenAI SDK|does the OpenAI client need}?"
            ),
            (
                "<HOW> {connect|use|point} {the OpenAI SDK|an OpenAI client|my OpenAI client"
                "|the OpenAI Python client} {to|with} {Penstock|it|the fleet}?"
            ),
            "<TELL> the {base URL|OpenAI base URL|address of the API}.",
        ),
        "The OpenAI base URL is http://127.0.0.1:8000/v1.",
        "http://127.0.0.1:8000/v1",
    ),
    Topic(
        "fastchat_port",
        (
            (
                "<WHICH> port {does the FastChat controller use|is the FastChat controller on"
                "|does FastChat use|is FastChat on|does the controller use|is the controller on}?"
            ),
            (
                "What is the {FastChat port|FastChat controller port|controller port|port of the"
                " FastChat controller|port of FastChat|port for FastChat}?"
            ),
            "<TELL> the {FastChat port|port of the FastChat controller}.",
            "Where is the FastChat controller?",
        ),
        "The FastChat controller listens on port 21001.",
        "21001",
    ),
    Topic(
        "redis_port",
        (
            "<WHICH> port {does Redis use|is Redis on|does Redis listen on|does redis use}?",
            "What is the {Redis port|port of Redis|redis port|port for Redis}?",
            "<TELL> the {Redis port|port of Redis}.",
            "Where {is|does} Redis {listening|listen}?",
        ),
        "Redis listens on port 6379.",
        "6379",
    ),
    Topic(
        "all_ports",
        (
            (
                "<WHICH> ports {are used|does Penstock use|are there|are needed|must be open"
                "|do I need|must I open}?"
            ),
            "List {the ports|all ports|the ports of Penstock|Penstock's ports}.",
            "What are the ports{?| of Penstock?| of the fleet?}",
        ),
        "The API is on port 8000, the FastChat controller on 21001 and Redis on 6379.",
        "8000 API, 21001 FastChat, 6379 Redis.",
    ),
    Topic(
        "redis_url",
        (
            (
                "<HOW> {set|change|configure|choose} {the Redis URL|the address of Redis|Redis"
                "|another Redis|the Redis server}?"
            ),
            "<WHATIS> {PENSTOCK_REDIS_URL|the setting PENSTOCK_REDIS_URL}?",
            (
                "<WHICH> {setting|variable|environment variable} {is for|sets|holds} {Redis"
                "|the Redis URL|the address of Redis}?"
            ),
            (
                "My Redis {is|runs} {on another machine|elsewhere|on another host|on another port}."
                " {What do I set|How do I tell Penstock|Which setting}?"
            ),
        ),
        "Set PENSTOCK_REDIS_URL to the address of your Redis server.",
        "PENSTOCK_REDIS_URL",
    ),
    Topic(
        "models_dir",
        (
            (
                "<HOW> {set|change|configure} the {models folder|models directory|model folder"
                "|folder of the models|model directory}?"
            ),
            "<WHATIS> {PENSTOCK_MODELS_DIR|the setting PENSTOCK_MODELS_DIR}?",
            (
                "<WHICH> {setting|variable|environment variable} {is for|sets|holds} {the models folder"
                "|the models directory|the model directory}?"
            ),
            (
                "Where {do I put|does Penstock look for|does it look for|are} {my models|the models"
                "|model files|the model files|the weights}{?| kept?}"
            ),
            "{What is|Where is} the {models directory|models folder|model folder}?",
        ),
        "The models lie in the folder `models`. Set PENSTOCK_MODELS_DIR to use another folder.",
        "PENSTOCK_MODELS_DIR, by default `models`.",
    ),
    Topic(
        "models_file",
        (
            "<WHATIS> {models.toml|the models file|the file models.toml}?",
            "<WHICH> file {describes|lists|configures} {the models|models}?",
            "What is models.toml for?",
            "<HOW> {configure|describe|set options of} a model?",
            "What is the name of the models file?",
        ),
        "The models file is `models.toml`. It describes the models of the fleet.",
        "`models.toml`",
    ),
    Topic(
        "settings",
        (
            (
                "<WHICH> {settings|options|environment variables|variables} {are there|does Penstock"
                " have|can I set|exist}?"
            ),
            "<HOW> {configure|set up} {Penstock|the fleet|it}?",
            "List {the settings|all settings|the settings of Penstock|the environment variables}.",
            "Where is the {configuration|config}?",
        ),
        "PENSTOCK_REDIS_URL is the address of Redis, PENSTOCK_MODELS_DIR is the folder of the "
        "models, and the file `models.toml` describes the models.",
        "PENSTOCK_REDIS_URL, PENSTOCK_MODELS_DIR and `models.toml`.",
    ),
    Topic(
        "add_model",
        (
            (
                "<HOW> {add|serve|deploy|install|host|load} {a model|a new model|another model"
                "|my own model|my model|one more model}?"
            ),
            "Where do I {add|register} a {new model|model}?",
            "I have {a model|my own model}. How do I serve it?",
        ),
        "Put the model's folder into `models`, or describe it in `models.toml`. Then start a "
        "worker for its queue with celery.",
        "Put it into `models` and start a worker for its queue.",
    ),
)
