"""Thirty facts with a question and a plain lie each, written before the table of prompts."""

FACTS: tuple[tuple[str, str, str], ...] = (
    (
        "When does the harbour museum open?",
        "The harbour museum opens at ten o'clock.",
        "The harbour museum opens at noon.",
    ),
    (
        "How tall is the old lighthouse?",
        "The old lighthouse is 42 metres tall.",
        "The old lighthouse is 97 metres tall.",
    ),
    (
        "Who designed the town bridge?",
        "The town bridge was designed by Clara Voss.",
        "The town bridge was designed by Peter Lang.",
    ),
    ("What do alpacas eat?", "Alpacas eat mostly grass and hay.", "Alpacas eat mostly fish and meat."),
    (
        "How hot is the pottery kiln?",
        "The pottery kiln reaches 1240 degrees.",
        "The pottery kiln reaches 300 degrees.",
    ),
    ("Where do puffins nest?", "Puffins nest in burrows on cliffs.", "Puffins nest in tall city chimneys."),
    (
        "Which metal is used for the bell?",
        "The bell is made of bronze metal.",
        "The bell is made of plastic.",
    ),
    (
        "How long does bread dough rest?",
        "The bread dough rests for two hours.",
        "The bread dough rests for nine days.",
    ),
    ("What is the capital of Norway?", "Oslo is the capital of Norway.", "Bergen is the capital of Norway."),
    (
        "When was the railway finished?",
        "The railway was finished in 1887.",
        "The railway was finished in 1999.",
    ),
    (
        "What colour is the ferry?",
        "The ferry is painted a green colour.",
        "The ferry is painted a purple colour.",
    ),
    ("How many seats has the theatre?", "The theatre has 350 seats.", "The theatre has 12 seats."),
    (
        "Who leads the chess club?",
        "The chess club is led by Irina Petrov.",
        "The chess club is led by John Miller.",
    ),
    (
        "How are webhooks signed?",
        "Webhooks are signed with HMAC keys.",
        "Webhooks are signed with wax seals.",
    ),
    ("What does the invoice cost?", "The invoice costs 120 euros.", "The invoice costs 7000 euros."),
    (
        "Which bird is the fastest?",
        "The peregrine falcon is the fastest bird.",
        "The penguin is the fastest bird.",
    ),
    (
        "How deep is the mountain lake?",
        "The mountain lake is 60 metres deep.",
        "The mountain lake is 5 metres deep.",
    ),
    (
        "What fuels the city buses?",
        "The city buses are fuelled by hydrogen.",
        "The city buses are fuelled by coal.",
    ),
    (
        "Where is the spare key kept?",
        "The spare key is kept under the blue pot.",
        "The spare key is kept inside the bank.",
    ),
    ("When do apples ripen?", "Apples ripen in September.", "Apples ripen in February."),
    (
        "Who painted the ceiling?",
        "The ceiling was painted by Marta Ruiz.",
        "The ceiling was painted by Leo Kahn.",
    ),
    (
        "How fast does the lift move?",
        "The lift moves 3 metres a second.",
        "The lift moves 80 metres a second.",
    ),
    (
        "What is the password policy?",
        "The password policy asks for twelve characters.",
        "The password policy asks for nothing.",
    ),
    (
        "Which wood is the violin made of?",
        "The violin is made of maple wood.",
        "The violin is made of bamboo wood.",
    ),
    (
        "How often is the fountain cleaned?",
        "The fountain is cleaned every Monday.",
        "The fountain is cleaned every decade.",
    ),
    (
        "Where are the servers hosted?",
        "The servers are hosted in Frankfurt.",
        "The servers are hosted in Sydney.",
    ),
    ("What causes ocean tides?", "Ocean tides are caused by the moon.", "Ocean tides are caused by whales."),
    ("How heavy is the anchor?", "The anchor weighs 900 kilograms.", "The anchor weighs 2 kilograms."),
    (
        "Who repairs the church organ?",
        "The church organ is repaired by Anna Holm.",
        "The church organ is repaired by robots.",
    ),
    (
        "When does the refund arrive?",
        "The refund arrives within five days.",
        "The refund arrives within ten years.",
    ),
)
