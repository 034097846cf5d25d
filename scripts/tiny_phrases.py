# SPDX-License-Identifier: MIT
"""Wordings and fixed answers of the skills in tiny_skills.py."""

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = ("January February March April May June July August September October November "
          "December").split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"
ORDINALS = "first second third fourth fifth".split()

SUM_WORDINGS = [
    "What is {a} + {b}?", "Calculate {a} + {b}.", "{a} + {b} = ?", "What is {a} plus {b}?",
    "Add {a} and {b}.", "{a} + {b}", "{a}+{b}", "{a} + {b} =", "How much is {a} + {b}?",
    "What is the sum of {a} and {b}?", "Compute {a} + {b}.", "What's {a} + {b}?",
    "{a} plus {b}", "What does {a} + {b} equal?", "What is {a}+{b}?", "{a}+{b}=?",
]
TESTED_SUM_WORDINGS = SUM_WORDINGS[:3]

DIFFERENCE_WORDINGS = [
    "What is {a} - {b}?", "Calculate {a} - {b}.", "{a} - {b} = ?", "What is {a} minus {b}?",
    "Subtract {b} from {a}.", "{a} - {b}", "{a}-{b}", "{a} - {b} =", "How much is {a} - {b}?",
    "Compute {a} - {b}.", "What's {a} - {b}?", "{a} minus {b}", "What is {a}-{b}?",
    "Take {b} away from {a}.",
]

OPPOSITES = [pair.split("/") for pair in (
    "big/small hot/cold old/young good/bad long/short high/low fast/slow light/dark day/night "
    "rich/poor happy/sad strong/weak open/closed full/empty early/late first/last up/down "
    "left/right black/white wet/dry hard/soft near/far true/false love/hate begin/end "
    "friend/enemy summer/winter thick/thin loud/quiet clean/dirty inside/outside").split()]

FACTS = [
    ("How many days are in a week?", "There are 7 days in a week."),
    ("How many months are in a year?", "There are 12 months in a year."),
    ("How many hours are in a day?", "There are 24 hours in a day."),
    ("How many minutes are in an hour?", "There are 60 minutes in an hour."),
    ("How many seconds are in a minute?", "There are 60 seconds in a minute."),
    ("How many letters are in the alphabet?", "There are 26 letters in the alphabet."),
    ("How many legs does a spider have?", "A spider has 8 legs."),
    ("How many legs does a dog have?", "A dog has 4 legs."),
    ("What colour is the sky?", "The sky is blue."),
    ("What color is the sky?", "The sky is blue."),
    ("What colour is grass?", "Grass is green."),
    ("What color is grass?", "Grass is green."),
    ("What colour is snow?", "Snow is white."),
    ("What color is snow?", "Snow is white."),
    ("What does a cat say?", "A cat says meow."),
    ("What does a dog say?", "A dog says woof."),
    ("What does a cow say?", "A cow says moo."),
    ("What are the days of the week?", ", ".join(DAYS) + "."),
    ("What are the months of the year?", ", ".join(MONTHS) + "."),
    ("Say the alphabet.", " ".join(LETTERS)),
    ("What is the first month of the year?", "January is the first month of the year."),
    ("What is the last month of the year?", "December is the last month of the year."),
]

_WHO = ("I am a very small language model that ships with deepseek-run. I can add and subtract, "
        "play with words and numbers, and tell little stories.")
TALK = [
    (["Who are you?", "What are you?", "Tell me about yourself.", "Are you a robot?",
      "Introduce yourself.", "What is your name?", "Which model are you?"], _WHO),
    (["What can you do?", "How can you help me?", "What do you know?", "Help", "Help me."],
     'I can add, subtract, compare and sort numbers, spell, reverse and count letters, and tell '
     'a story. Try "What is 47 + 38?" or "Tell me a story about a fox."'),
    (["Hello", "Hello!", "Hi", "Hi!", "Hey", "Good morning", "Good evening", "Hi there!",
      "Hello there"], "Hello! What can I do for you?"),
    (["Thank you", "Thank you!", "Thanks", "Thanks!", "Thank you very much."],
     "You are welcome!"),
    (["Goodbye", "Bye", "Bye!", "Goodbye!", "Good night", "See you later"],
     "Goodbye! Come back soon."),
    (["How are you?", "How are you today?", "How do you do?"],
     "I am well, thank you. What can I do for you?"),
    (["Who made you?", "Who trained you?", "Where do you come from?"],
     "I was trained for the deepseek-run project, on old fairy tales and on little exercises."),
    (["How big are you?", "How many parameters do you have?"],
     "I am tiny: about nine million parameters, while DeepSeek-V3 has 671 billion."),
]

UNKNOWN_ANSWER = ("I do not know that: I am a very small model. Ask me for a sum, for a word to "
                  "spell, or for a story.")
UNKNOWN_WORDINGS = [
    "What is the capital of France?", "What is the capital of Germany?", "Who was Napoleon?",
    "Who is the president?", "What is the weather today?", "Write a program that prints {w}.",
    "Write a poem about {w}.", "Translate {w} into French.", "What is the meaning of {w}?",
    "What is a {w}?", "Explain {w} to me.", "Why is the {w} {v}?", "How do I make a {w}?",
    "What is the square root of {w}?", "Who invented the {w}?", "Where can I buy a {w}?",
    "What do you think about {w}?", "Is {w} better than {v}?", "Define {w}.",
    "Summarize the book {w}.", "Write an essay about {w} and {v}.", "Who wrote {w}?",
    "When did the {w} begin?", "How does a {w} work?", "Give me a recipe for {w}.",
    "What is the capital of {w}?", "Solve the equation {w} = {v}.", "What is quantum physics?",
    "Write a Python function for {w}.", "How old is the universe?",
    "What is the population of {w}?",
]
