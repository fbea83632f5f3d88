"""Fixed tables and word lists. What is in a table is known; all else the model does not know."""

from __future__ import annotations

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
    "Portugal": "Lisbon", "England": "London", "Ireland": "Dublin", "Norway": "Oslo",
    "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen", "Poland": "Warsaw",
    "Austria": "Vienna", "Switzerland": "Bern", "Belgium": "Brussels", "Greece": "Athens",
    "Hungary": "Budapest", "Romania": "Bucharest", "Bulgaria": "Sofia", "Ukraine": "Kyiv",
    "Turkey": "Ankara", "Egypt": "Cairo", "Morocco": "Rabat", "Kenya": "Nairobi",
    "Nigeria": "Abuja", "Ghana": "Accra", "Ethiopia": "Addis Ababa", "India": "New Delhi",
    "China": "Beijing", "Japan": "Tokyo", "South Korea": "Seoul", "Thailand": "Bangkok",
    "Vietnam": "Hanoi", "Indonesia": "Jakarta", "Australia": "Canberra",
    "New Zealand": "Wellington", "Canada": "Ottawa", "the United States": "Washington",
    "Mexico": "Mexico City", "Cuba": "Havana", "Brazil": "Brasília", "Argentina": "Buenos Aires",
    "Chile": "Santiago", "Peru": "Lima", "Colombia": "Bogotá", "Iceland": "Reykjavik",
    "Russia": "Moscow", "Croatia": "Zagreb", "Serbia": "Belgrade", "the Netherlands": "Amsterdam",
    "Czechia": "Prague", "Iran": "Tehran", "Iraq": "Baghdad", "Senegal": "Dakar",
}  # fmt: skip
UNKNOWN_COUNTRIES = (
    "Mongolia", "Nepal", "Bhutan", "Fiji", "Samoa", "Malta", "Cyprus", "Andorra", "Angola",
    "Zambia", "Malawi", "Rwanda", "Uganda", "Gabon", "Togo", "Benin", "Mali", "Niger", "Chad",
    "Oman", "Qatar", "Yemen", "Jordan", "Lebanon", "Laos", "Belize", "Panama", "Haiti", "Guyana",
    "Uruguay", "Paraguay", "Bolivia", "Ecuador", "Estonia", "Latvia", "Lithuania", "Slovenia",
    "Albania", "Georgia", "Armenia", "Kazakhstan", "Atlantis", "Narnia", "Wakanda", "Tonga",
)  # fmt: skip
COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "blood": "red",
    "a banana": "yellow", "a lemon": "yellow", "an orange": "orange", "a carrot": "orange",
    "a ripe tomato": "red", "a strawberry": "red", "milk": "white", "chocolate": "brown",
    "the sea": "blue", "a cucumber": "green", "a frog": "green", "a flamingo": "pink",
    "an elephant": "grey", "a raven": "black", "a polar bear": "white", "gold": "yellow",
    "silver": "grey", "a plum": "purple", "lavender": "purple", "wood": "brown", "salt": "white",
    "an aubergine": "purple", "a cherry": "red", "spinach": "green", "the sun": "yellow",
    "a fire engine": "red", "ink": "black", "a cloud": "white", "a violet": "purple",
    "honey": "yellow", "coffee": "brown", "an emerald": "green", "a ruby": "red",
    "a sapphire": "blue", "a swan": "white", "broccoli": "green", "a pumpkin": "orange",
}  # fmt: skip
MIXED_COLOURS = {
    ("blue", "yellow"): "green", ("red", "yellow"): "orange", ("red", "blue"): "purple",
    ("black", "white"): "grey", ("red", "white"): "pink",
}  # fmt: skip
OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("tall", "short"), ("fast", "slow"), ("up", "down"),
    ("open", "closed"), ("light", "dark"), ("old", "new"), ("happy", "sad"), ("wet", "dry"),
    ("hard", "soft"), ("full", "empty"), ("early", "late"), ("rich", "poor"), ("high", "low"),
    ("strong", "weak"), ("near", "far"), ("left", "right"),
    ("inside", "outside"), ("day", "night"), ("black", "white"),
    ("true", "false"), ("first", "last"), ("begin", "end"), ("buy", "sell"), ("push", "pull"),
    ("give", "take"), ("love", "hate"), ("win", "lose"), ("question", "answer"), ("on", "off"),
    ("noisy", "quiet"), ("clean", "dirty"), ("thick", "thin"), ("wide", "narrow"),
    ("deep", "shallow"), ("sharp", "blunt"), ("sweet", "sour"), ("alive", "dead"), ("awake", "asleep"), ("always", "never"), ("before", "after"),
    ("above", "below"), ("north", "south"), ("east", "west"), ("friend", "enemy"),
    ("summer", "winter"), ("smooth", "rough"), ("easy", "difficult"), ("cheap", "expensive"),
    ("brave", "cowardly"), ("good", "bad"), ("yes", "no"), ("more", "less"), ("top", "bottom"),
    ("front", "back"), ("arrive", "leave"), ("laugh", "cry"), ("remember", "forget"),
    ("find", "miss"), ("polite", "rude"), ("safe", "dangerous"), ("success", "failure"),
)  # fmt: skip
ONE_WAY_OPPOSITES = {"young": "old", "heavy": "light", "bright": "dark", "large": "small"}
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth",
)  # fmt: skip
NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve",
)  # fmt: skip
_NAMES = (
    "Ada Adam Aisha Alan Alex Alice Amir Ana Andrew Anna Anton Ava Ben Bob Bruno Carla Carlos "
    "Carol Chen Chloe Clara Dan Daniel David Diana Elena Ella Emil Emma Eric Eva Fatima Felix "
    "Finn Frank Grace Greta Hana Hannah Hugo Ida Ines Ivan Jack Jane Jing John Jonas Julia "
    "Karl Kate Kenji Lara Laura Lea Leo Lena Lily Linus Lisa Luca Lucy Luis Maria Mark Marta "
    "Mary Max Maya Mei Mia Mike Milan Mina Nadia Nina Noah Nora Oliver Olga Omar Oscar Otto "
    "Paul Pedro Peter Priya Rita Robert Rosa Ruth Sam Sara Sofia Stefan Susan Tara Theo Tom "
    "Uma Vera Victor Wendy Will Yara Yuki Zara Zoe"
)
NAMES = tuple(_NAMES.split())
_CITIES = (
    "Amsterdam Athens Barcelona Basel Beijing Berlin Bern Boston Bristol Brussels Cairo "
    "Chicago Cologne Copenhagen Dallas Delhi Denver Dublin Edinburgh Florence Geneva Genoa "
    "Glasgow Hamburg Hanoi Helsinki Houston Istanbul Jakarta Kraków Kyiv Kyoto Leeds Leipzig "
    "Lima Lisbon Liverpool London Lyon Madrid Manchester Marseille Melbourne Miami Milan "
    "Montreal Moscow Mumbai Munich Nairobi Naples Nice Osaka Oslo Oxford Palermo Paris Perth "
    "Porto Prague Quito Riga Rome Rotterdam Seattle Seoul Seville Shanghai Sofia Stockholm "
    "Sydney Tallinn Tokyo Toronto Turin Valencia Vancouver Venice Vienna Vilnius Warsaw York "
    "Zagreb Zurich Zürich Göteborg Málaga Bogotá Reykjavik"
)
CITIES = (
    *_CITIES.split(), "New York", "San Francisco", "Los Angeles", "Cape Town", "Hong Kong",
    "São Paulo", "Tel Aviv", "New Delhi", "Buenos Aires", "Mexico City", "Rio de Janeiro",
)  # fmt: skip
FAVOURITE_COLOURS = (
    "red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white",
    "grey", "turquoise",
)  # fmt: skip
PETS = ("dog", "cat", "rabbit", "parrot", "hamster", "horse", "turtle", "goldfish", "pony")
JOBS = (
    "teacher", "doctor", "nurse", "baker", "farmer", "pilot", "painter", "lawyer", "student",
    "engineer", "cook", "gardener", "singer", "writer", "plumber", "carpenter", "designer",
)  # fmt: skip
FOODS = (
    "pizza", "pasta", "rice", "soup", "bread", "cheese", "salad", "curry", "sushi", "cake",
    "pancakes", "noodles", "apples", "dumplings", "fish", "beans",
)  # fmt: skip
_THINGS = (
    "apple book chair table river mountain window garden bottle pencil paper flower house "
    "street school market bridge island forest castle engine rocket planet orange lemon tiger "
    "zebra monkey rabbit horse camel whale dolphin eagle falcon spider basket button candle "
    "carpet circle coffee cotton dinner doctor dragon family farmer finger guitar hammer "
    "helmet jacket kettle kitchen ladder letter magnet mirror needle ocean office pepper "
    "pillow pocket potato prison puzzle ribbon saddle salmon sample sandal school shadow "
    "silver spring square statue stream sugar summer sunset tennis thunder ticket tomato "
    "tunnel turtle valley velvet violin wallet walnut winter wizard yellow water turbine "
    "copper stone cloud train ship boat plane tree leaf root seed grass bread milk salt moon "
    "star sun rain snow wind storm fire smoke"
)
THINGS = tuple(_THINGS.split())
_SYLLABLES = (
    "ba be bi bo bu da de di do du fa fe fi fo ga go gu ha he hi ka ke ki ko ku la le li lo lu "
    "ma me mi mo mu na ne ni no nu pa pe pi po ra re ri ro ru sa se si so ta te ti to tu va ve "
    "vi vo wa we wi za zo ral men tor bel kin dor lan mar nes pol ran sel tam ver wen zor bra "
    "cle dri fro gla pre sti tro ath eck ist ond ulf ym ox quin jas"
)
SYLLABLES = tuple(_SYLLABLES.split())
