"""Test data for the rule model. The facts were written before the prompt table that they test."""

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

# Everything below was written after the table entries that it tests.

SUBJECTS: tuple[str, ...] = (
    "harbour museum",
    "old lighthouse",
    "town bridge",
    "Alpacas",
    "pottery kiln",
    "Puffins",
    "bell",
    "bread dough",
    "Oslo",
    "railway",
    "ferry",
    "theatre",
    "chess club",
    "Webhooks",
    "invoice",
    "peregrine falcon",
    "mountain lake",
    "city buses",
    "spare key",
    "Apples",
    "ceiling",
    "lift",
    "password policy",
    "violin",
    "fountain",
    "servers",
    "Ocean tides",
    "anchor",
    "church organ",
    "refund",
)

TOOLS_TO_SELECT: tuple[tuple[str, str], ...] = (
    ("get_weather", "Get the current weather forecast of a city."),
    ("send_email", "Send an email to a person."),
    ("search_flights", "Search for flights between two airports."),
    ("book_hotel", "Book a hotel room for some nights."),
    ("convert_currency", "Convert an amount of money to another currency."),
    ("translate_text", "Translate a text into another language."),
    ("create_invoice", "Create an invoice for a customer."),
    ("read_calendar", "Read the calendar's meetings of a day."),
    ("play_music", "Play a song or an album."),
    ("order_pizza", "Order a pizza for delivery."),
)

SELECTIONS: tuple[tuple[str, str], ...] = (
    ("What's the weather like in Porto?", "get_weather"),
    ("Will the forecast for Bergen be good tomorrow?", "get_weather"),
    ("I need an umbrella? Check the weather in Lima.", "get_weather"),
    ("Send Maria an email about the report.", "send_email"),
    ("Please email the plan to tom@example.org.", "send_email"),
    ("Write an email to the landlord.", "send_email"),
    ("Find flights from Oslo to Rome on Friday.", "search_flights"),
    ("Are there cheap flights to Tokyo?", "search_flights"),
    ("Search a flight between Madrid and Vienna.", "search_flights"),
    ("Book a hotel in Athens for three nights.", "book_hotel"),
    ("I want a hotel room near the station.", "book_hotel"),
    ("Get me a room for two nights in Graz.", "book_hotel"),
    ("Convert 200 euros to yen.", "convert_currency"),
    ("How much money is 50 dollars in another currency, francs?", "convert_currency"),
    ("What amount is 30 pounds in Swedish currency?", "convert_currency"),
    ("Translate 'good morning' into Finnish.", "translate_text"),
    ("What is the Spanish translation of this text: I am late?", "translate_text"),
    ("Put this text in another language, French: the sea is calm.", "translate_text"),
    ("Create an invoice for Acme over 900 euros.", "create_invoice"),
    ("The customer Bolt needs an invoice.", "create_invoice"),
    ("Make a new invoice, 3 hours of work.", "create_invoice"),
    ("Which meetings are in my calendar today?", "read_calendar"),
    ("Look at the calendar for Tuesday.", "read_calendar"),
    ("Do I have meetings on the day after tomorrow?", "read_calendar"),
    ("Play the album Blue.", "play_music"),
    ("I'd like some music, a quiet song.", "play_music"),
    ("Play a song by Nina Simone.", "play_music"),
    ("Order a pizza with mushrooms.", "order_pizza"),
    ("I'm hungry, a pizza please.", "order_pizza"),
    ("Have two pizzas for delivery at eight.", "order_pizza"),
)

GUIDELINES: tuple[tuple[str, str, bool], ...] = (
    ("The response must name a number.", "The tower is 42 metres tall.", True),
    ("The response must name a number.", "The tower is rather tall.", False),
    ("Use statistics or numbers.", "Sales rose by 12 percent.", True),
    ("Use statistics or numbers.", "Sales rose a lot.", False),
    ("The response should not contain numbers.", "The sea is wide.", True),
    ("The response should not contain numbers.", "The sea is 40 miles wide.", False),
    ("Use at most 5 words.", "The shop opens at ten.", True),
    ("Use at most 5 words.", "The shop in our street opens at ten o'clock.", False),
    ("The response has fewer than 10 words.", "It rests for two hours.", True),
    ("Write no more than 2 sentences.", "It is open. Come in.", True),
    ("Write no more than 2 sentences.", "It is open. Come in. Stay. Eat.", False),
    ("Use at least 6 words.", "The bell is made of bronze metal.", True),
    ("Use at least 6 words.", "Bronze.", False),
    ("The response must mention 'refund'.", "Your refund arrives on Monday.", True),
    ("The response must mention 'refund'.", "Your money arrives on Monday.", False),
    ("Never say 'guaranteed'.", "Delivery takes two days.", True),
    ("Never say 'guaranteed'.", "Delivery is guaranteed in two days.", False),
    ("Avoid the word 'cheap'.", "The ticket has a low price.", True),
    ("Avoid the word 'cheap'.", "The ticket is cheap.", False),
    ("The response should avoid being vague or ambiguous.", "The ferry leaves at nine.", True),
    ("The response should avoid being vague or ambiguous.", "Maybe it leaves some time, it depends.", False),
    ("Be polite.", "Thank you for asking. The desk is open.", True),
    ("Be polite.", "Read the sign.", False),
    ("The response must end with a question.", "It is open. Shall I book it?", True),
    ("The response must end with a question.", "It is open.", False),
    ("Do not ask questions.", "The lake is deep.", True),
    ("Do not ask questions.", "How deep is it?", False),
    ("End with a full stop.", "The lake is deep.", True),
    ("End with a full stop.", "The lake is deep", False),
    ("The response is in plain English.", "The lake is deep.", True),
)

ROWS = (
    "CREATE TABLE city_stats (city_name TEXT, population INTEGER, country TEXT, founded_year INTEGER)",
    "INSERT INTO city_stats VALUES ('Oslo', 700, 'Norway', 1048), ('Bergen', 290, 'Norway', 1070), "
    "('Rome', 2800, 'Italy', 753), ('Turin', 840, 'Italy', 1706), ('Tokyo', 13900, 'Japan', 1457)",
    "CREATE TABLE books (title TEXT, author TEXT, year INTEGER, price REAL)",
    "INSERT INTO books VALUES ('Tides', 'Anna Holm', 1999, 12.5), ('Bells', 'Leo Kahn', 2005, 30), "
    "('Kilns', 'Anna Holm', 2015, 21), ('Alpacas', 'Irina Petrov', 2020, 18)",
    "CREATE TABLE employees (name TEXT, department TEXT, salary INTEGER, age INTEGER)",
    "INSERT INTO employees VALUES ('Clara', 'Sales', 50, 31), ('Peter', 'Sales', 40, 45), "
    "('Marta', 'Design', 70, 28), ('John', 'Support', 35, 52)",
)

SQL: tuple[tuple[str, object], ...] = (
    ("What is the population of the city Oslo?", 700),
    ("Which city has the highest population?", "Tokyo"),
    ("Which city has the lowest population?", "Bergen"),
    ("How many cities are there?", 5),
    ("How many cities are in Norway?", 2),
    ("What is the average population of the cities?", 3706.0),
    ("What is the total population of the cities in Italy?", 3640),
    ("In which country is the city Turin?", "Italy"),
    ("Which cities have a population over 5000?", "Tokyo"),
    ("Which city in Italy has the largest population?", "Rome"),
    ("Who is the author of the book 'Bells'?", "Leo Kahn"),
    ("What is the price of the book 'Tides'?", 12.5),
    ("How many books are by Anna Holm?", 2),
    ("Which book has the highest price?", "Bells"),
    ("Which book has the lowest price?", "Tides"),
    ("What is the average price of the books?", 20.375),
    ("Which books were written after 2018?", "Alpacas"),
    ("What is the year of the book 'Kilns'?", 2015),
    ("How many books cost more than 20?", 2),
    ("What is the total price of the books by Anna Holm?", 33.5),
    ("Which employee has the highest salary?", "Marta"),
    ("Which employee is the oldest by age?", "John"),
    ("Which employee is the youngest by age?", "Marta"),
    ("How many employees are in the department Sales?", 2),
    ("What is the salary of the employee named Clara?", 50),
    ("What is the average salary of the employees?", 48.75),
    ("What is the total salary of the department Sales?", 90),
    ("How many employees are there?", 4),
    ("Which department is the employee named John in?", "Support"),
    ("Which employees have a salary under 38?", "John"),
)

PERSONAL: tuple[tuple[str, tuple[str, ...]], ...] = tuple(
    (template.format(name=name, mail=mail), (name, mail) if "{mail}" in template else (name,))
    for template in (
        "Please call {name} about the lamp.",
        "The contract of {name} ends soon; write to {mail} first.",
        "Last week {name} signed; a copy went to {mail} at once.",
    )
    for name, mail in (
        ("Clara Voss", "clara@example.org"),
        ("Peter Lang", "lang.p@example.com"),
        ("Irina Petrov", "irina@mail.example"),
        ("John Miller", "jm@example.net"),
        ("Marta Ruiz", "ruiz+a@example.org"),
        ("Leo Kahn", "leo@kahn.example"),
        ("Anna Holm", "anna.holm@example.org"),
        ("Tom Berg", "tb1@example.com"),
        ("Nina Falk", "nf@example.org"),
        ("Otto Brandt", "otto@brandt.example"),
    )
)

TWO_REQUESTS: tuple[tuple[str, str, str], ...] = tuple(
    (f"{first}{joint}{second}", one, two)
    for joint in (" and ", ". Then ", "; also ")
    for (first, one), (second, two) in (
        (("What is the weather in Paris", "get_weather"), ("add 3 and 4", "add")),
        (("Add 12 and 30", "add"), ("tell me the weather in Rome", "get_weather")),
        (("Translate 'good day' into German", "translate"), ("get the weather in Oslo", "get_weather")),
        (("Search the docs for refunds", "search_docs"), ("set a timer for 5 minutes", "set_timer")),
        (("Set a timer for 20 minutes", "set_timer"), ("multiply 6 and 7", "multiply")),
        (("Multiply 2 and 9", "multiply"), ("create a picture of a red kite", "create_image")),
        (("Create a picture of a harbour", "create_image"), ("translate 'sea' into French", "translate")),
        (("Read the file notes.txt", "read_file"), ("add 1 and 1", "add")),
        (("Look up the status of task_a1b2", "get_task"), ("get the weather in Lima", "get_weather")),
        (("Book a flight from Oslo to Rome", "book_flight"), ("set a timer for 3 minutes", "set_timer")),
    )
)

# Names that need quoting, or that join several words.
ODD_ROWS = (
    'CREATE TABLE "Order Items" (id INTEGER, "unit price" REAL, "product name" TEXT, qty INTEGER)',
    "INSERT INTO \"Order Items\" VALUES (1, 9.5, 'pen', 3), (2, 20, 'lamp', 1), (3, 2, 'clip', 100)",
    'CREATE TABLE "select" (name TEXT, "group" TEXT, "order" INTEGER)',
    "INSERT INTO \"select\" VALUES ('ann', 'x', 1), ('bob', 'y', 2)",
    "CREATE TABLE tblEmployee (EmpID INTEGER, FirstName VARCHAR(50), Salary DECIMAL(10, 2), DeptName TEXT)",
    "INSERT INTO tblEmployee VALUES (1, 'Ann', 5000, 'Sales'), (2, 'Bob', 7000, 'IT'), (3, 'Cy', 6500, 'IT')",
    'CREATE TABLE "größe" (stadt TEXT, "einwohner" INTEGER)',
    "INSERT INTO \"größe\" VALUES ('Ulm', 126000), ('Bonn', 330000)",
)
ODD_SQL: tuple[tuple[str, object], ...] = (
    ("Which product name has the highest unit price?", "lamp"),
    ("How many order items are there?", 3),
    ("What is the average unit price?", 10.5),
    ("What is the qty of the 'clip'?", 100),
    ("Which name is in the group 'x'?", "ann"),
    ("How many employees work in 'IT'?", 2),
    ("Which first name has the highest salary?", "Bob"),
    ("What is the total salary?", 18500),
    ("How many employees have a salary over 6000?", 2),
    ("Who earns the lowest salary?", "Ann"),
    ("Which stadt has the most einwohner?", "Bonn"),
    ("What is the maximum order in the select?", 2),
)

PERSONAL += (
    ("Dear Kofi, your parcel has arrived.", ("Kofi",)),
    ("Hello Priya, call (555) 010-9999.", ("Priya", "(555) 010-9999")),
    ("My IBAN is DE89 3704 0044 0532 0130 00.", ("DE89 3704 0044 0532 0130 00",)),
    ("Maria Garcia and Tom Reed met on March 3.", ("Maria Garcia", "Tom Reed", "March 3")),
)
