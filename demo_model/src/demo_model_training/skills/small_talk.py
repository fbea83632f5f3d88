"""Greetings, thanks, names and other small talk."""

from __future__ import annotations

from demo_model_training.dialogue import Exchange, Scene, ask
from demo_model_training.phrasing import expand

HELLO = "Hello! I am Penstock's demo model. How can I help?"

# Questions, the plain reply, the terse reply.
TALK: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        (("{Hello|Hi|Hey|Hi there|Hello there|Good morning|Good evening|Good afternoon|Greetings"
         "|Howdy|Yo|Hey there|Hiya|Good day|Welcome|hi|hey|helo|hallo|hullo|heya|hey ya|sup|wassup|good mornin|evening|morning|afternoon"
         "|g'day|hi hi|hello hello|Hi again|Hello my friend|oh hi|well hello|ahoy|salut|hola}{|!|.|,| you!| again!|!!| there| :)| all| bot| mate| buddy| dear| to you}"),
         ("{Good morning|Good evening|Good afternoon|Good day|Hello|Hi}, {dear model|sweet model|little one|my dear model|machine|computer|robot|sir|madam|everyone|old friend|Penstock model|kind assistant}{.|!|}"),
         "{just|only|I just|I only} {wanted|came|stopped by} to say {hi|hello|hey}{.|!|}",
         ("{Hello|Hi|Hey|Good morning|Good day}, {how is it going|little model|my friend|dear assistant|dear friend|nice to meet you|how are things|friend|assistant"
         "|Penstock|model|are you there|anyone there}{!|?|.|}")),
        HELLO, "Hello!",
    ),
    (
        ("{How are you|how r u|how are u|hows it going|how's life|how's things|how you doing|how ya doing|you ok|are you well|you good|How are you feeling|How goes it|what's new|whats up|what's happening|are you fine|how was your day|everything alright|all good|how have you been doing}{?| today?| doing?| doing today?|}",
         ("{How do you do|How is it going|How are things|What's up|How do you feel|Are you OK"
         "|How have you been|How is your day|You alright|How's it going}?"),
         "{Hi|Hello|Hey}, how are you{?| today?| doing?}"),
        "I am fine, thank you. How can I help?", "Fine, thanks.",
    ),
    (
        (("{Thanks|Thank you|Thank you very much|Thanks a lot|Many thanks|Cheers|Thx|Much"
         " appreciated|Thanks for your help|Thank you for the help|Thanks so much|Thanks a million|Thanks a ton|Thank you kindly|Thanks for that|Thank you so"
         " much|Thanks, friend|Thanks again|Thank you, model|Ta|ty|tysm|thx|thnx|tnx|thank u|thanks man|cheers mate|many many thanks|thanks indeed|thanks buddy|Thanks heaps|Thanks loads|Thank you ever so much|Thanks very much|thanks a lot, really|kudos and thanks|bless you}{|!|.|!!| :)}"),
         ("{Thanks|Thank you|Thx|Cheers|Many thanks} {a {bunch|heap|load|ton|lot|million|bundle|thousand|billion|pile}|{loads|heaps|tons|lots|so much|very much|kindly|truly|sincerely|ever so much}}{|!|.|, that helped| for {that|your help|the help|everything|your time|the answer|answering|explaining}| for {helping|telling} me}{|!|.}"),
         "{I appreciate it|I am grateful|Much obliged|I owe you|You saved {me|my day}|Appreciate it|Appreciated|You were a great help|that helped a lot|That helps}{.|!|, thanks|, thank you|}",
         "{That was|That is} {helpful|very helpful|useful|kind}{.|!}{| Thanks.| Thank you.}"),
        "You are welcome!", "Welcome!",
    ),
    (
        (("{Bye|Goodbye|See you|Good bye|Bye bye|See you later|Good night|Farewell|I have to go|cya|see ya|see you soon|see you around|see you tomorrow|catch you later|later|good night then|gn|nighty night|so long|ciao|adios|I'm off|I am leaving|gotta go|must run|time to go|That's all for today|that is all|we are done|signing off|have a nice day|have a good one|until tomorrow|bye for now|bye now"
         "|I must go now|Until next time|Take care|Talk to you later}{|!|.}"),),
        "Goodbye! Come back any time.", "Goodbye!",
    ),
    (
        (("{Well done|Good job|Great|Nice|Cool|Very good|Excellent|Perfect|Awesome|Wonderful"
         "|wow|lol|haha|hahaha|nice one|sweet|neat|rad|good bot|good model|impressive|fantastic|not bad|well played|that was quick|you rock|you are awesome|bravo|super|top|love it|I like that|that is great|that's cool|how clever|spot on|exactly|true|agreed|yay|Great answer|You are great|You are clever|I like you|You're the best|Good work"
         "|Amazing|Brilliant|That is right|Correct|You're smart|I love you}{|!|.}"),),
        "Thank you, I am glad to hear that.", "Thanks!",
    ),
    (
        (("{That is wrong|That's wrong|You are wrong|Wrong|That is not right|Not correct|Bad answer"
         "|You are stupid|You're dumb|This is bad|I don't like you|nonsense|rubbish|that's nonsense|that makes no sense|you suck|bad bot|booo|meh|terrible|awful|this is wrong|you are mistaken|you lie|liar|try again|not what I asked|that's not what I wanted|you don't get it|this is useless|what a mess|no, wrong|incorrect|you got it wrong|you misunderstood|I disagree|That is false|You made a"
         " mistake|No, that is wrong|I hate you|You are useless}{|!|.}"),),
        "I am sorry about that. I am a very small model and make mistakes.", "Sorry.",
    ),
    (
        (("{OK|Okay|Yes|Yeah|Sure|Right|I see|Fine|Got it|Alright|Understood|Yep|Hmm|Aha|Go on|k|kk|okey|okay then|ok thanks|ok cool|oh|ah|oh ok|uh|um|hm|mhm|yup|ya|yes please|of course|makes sense|I understand|roger|fair enough|good to know|interesting|really|so what|whatever|fine by me|as you wish|deal|indeed|well|alrighty|right then|anyway|ok go on|noted|very well|ok so"
         "|Ok then}{|.|!}"),
         "{No|Nope|No thanks|Nothing|Never mind|Not now|Forget it}{|.|!}"),
        "All right. What else would you like to know?", "All right.",
    ),
    (
        (("{Test|Testing|This is a test|Just testing|Ping|test 123|Is this on|Are you there"
         "|Do you hear me|Can you hear me|Are you awake|Hello, is anybody there|Do you work"
         "|Are you working}{|?|.|!}"),),
        "Yes, I am here. How can I help?", "I am here.",
    ),
    (
        (("{I am|I'm|I feel} {sad|unhappy|tired|bored|so bored|lonely|sleepy|exhausted|not well|not happy|hungry|cold|afraid|scared|nervous|depressed|confused|lost|frustrated|annoyed|down|sick|in pain|very tired|a bit sad|angry|ill|stressed|worried|upset}"
         "{.|| today.}"), "{I had|It was} a bad day{.|}"),
        "I am sorry to hear that. I hope that it gets better soon.", "I am sorry.",
    ),
    (
        ("{I am|I'm|I feel} {happy|glad|fine|good|well|great|excited|OK}{.|!|| today.}",
         "{I had|It was} a {good|great|nice} day{.|!|}"),
        "I am glad to hear that!", "Good!",
    ),
    (
        ("{Tell me|Tell|Give me|Do you know|Make|I want|Say|Can you tell me} a joke{?|.|}",
         "{Make me laugh|Be funny|Tell me something funny|Joke please|Say something funny}{.|!|}"),
        "Why did the worker cross the road? Its lease had run out on this side.",
        "A lease walks into a bar and is gone after two seconds.",
    ),
    (
        (("{How old are you|What is your age|When were you born|When is your birthday|When were you"
         " made|When were you trained}?"),),
        "I have no age: I was trained in a few minutes on one GPU.", "I have no age.",
    ),
    (
        (("Do you {have feelings|feel pain|dream|sleep|eat|like music|like me|love me|get tired"
         "|have a soul|have friends|have a family|have hobbies}?"),
         ("{What do you like|What is your favourite colour|What's your favourite food|Where do you"
         " live|What are your hobbies|What do you dream of|What is your favourite number}?")),
        "I am a small language model: I have no feelings and no favourites.", "No, I am a model.",
    ),
    (
        ("{Sorry|I am sorry|Excuse me|My apologies|Pardon me|Oops|Sorry about that}{|!|.}",),
        "No problem at all.", "No problem.",
    ),
    (
        (("{Nice to meet you|Pleased to meet you|Good to see you|It is nice to talk to you"
         "|Glad to meet you}{|!|.}"),),
        "Nice to meet you too!", "You too!",
    ),
)  # fmt: skip

MY_NAME = (
    "{What is|What's|Tell me|May I ask|Can I know|Do you know|Say} your name{?| please?}",
    (
        "{Do you have a name|How are you called|What are you called|What should I call you|How may I"
        " call you|What do they call you|What do I call you|Have you got a name}?"
    ),
)


def small_talk(scene: Scene) -> Exchange:
    """One remark and its reply; the assistant's name may come from the system prompt."""
    rng = scene.rng
    if rng.random() < (0.3 if scene.assistant_name else 0.08):
        name = scene.assistant_name
        plain = f"My name is {name}." if name else "My name is Penstock demo."
        question = expand(rng, rng.choice(MY_NAME))
        key = question + (name or "")
        return ask(scene, "small_talk", question, plain, f"{name or 'Penstock demo'}.", key=key)
    questions, plain, terse = rng.choice(TALK)
    if plain == HELLO and scene.assistant_name:
        plain = f"Hello! I am {scene.assistant_name}. How can I help?"
    return ask(scene, "small_talk", expand(rng, rng.choice(questions)), plain, terse)
