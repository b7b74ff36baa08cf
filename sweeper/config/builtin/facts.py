"""Short questions that a small chat model answers well, and gets wrong when layers are missing.

Five kinds of question, about words and about countries, each with a reference answer of one
sentence or two whose last word is what was asked for::

    What is the capital of France?           The capital of France is Paris.
    Which form of "go" is right yesterday?   Today they go. Yesterday they went.

A task gives the model the beginning of the answer and compares the next word. This measures
knowledge rather than style. Two more kinds, about countries and about things, are multiple choice.

Training, selection and test have different words of each kind, so a student cannot score well on
test by memorising answers: its knowledge comes from the teacher that it was made from.

``scripts/write_suites.py`` writes the files that the tasks below ``eval_suites/smollm2`` read.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

SPLITS = {"train": 0.35, "selection": 0.15, "test": 0.5}
"""Each split's share of the words of every kind."""
CHOICES = 4
"""Number of answers to choose from."""
Row = TypeVar("Row", bound=dict[str, Any])


@dataclass(frozen=True)
class QuestionKind:
    """A kind of question.

    Attributes:
        question: Template of the question, with ``{0}`` in the word's place.
        prefix: Template of every answer's beginning, with ``{0}`` in the word's place.
        pairs: Words and their answers, ``word target``, separated by commas.
    """

    question: str
    prefix: str
    pairs: str

    def items(self) -> list[tuple[str, str]]:
        """Return pairs of a word and its target."""
        pairs = (pair.split() for pair in self.pairs.split(","))
        return [(word, target) for word, target in pairs]


KINDS: Mapping[str, QuestionKind] = {
    "capital": QuestionKind(
        "What is the capital of {0}?",
        "The capital of {0} is",
        """France Paris, Germany Berlin, Italy Rome, Spain Madrid, Portugal Lisbon, Greece Athens,
        Austria Vienna, Poland Warsaw, Hungary Budapest, Sweden Stockholm, Norway Oslo, Denmark
        Copenhagen, Finland Helsinki, Ireland Dublin, Belgium Brussels, Russia Moscow,
        Romania Bucharest, Bulgaria Sofia, Serbia Belgrade, Croatia Zagreb, Switzerland Bern,
        Turkey Ankara, Egypt Cairo, Morocco Rabat, Algeria Algiers, Tunisia Tunis, Libya Tripoli,
        Kenya Nairobi, Ghana Accra, Senegal Dakar, Iran Tehran, Iraq Baghdad, Syria Damascus,
        Lebanon Beirut, Afghanistan Kabul, Pakistan Islamabad, Bangladesh Dhaka, China Beijing,
        Japan Tokyo, Thailand Bangkok, Vietnam Hanoi, Indonesia Jakarta, Philippines Manila,
        Mongolia Ulaanbaatar, Nepal Kathmandu, Australia Canberra, Canada Ottawa, Cuba Havana,
        Jamaica Kingston, Peru Lima, Chile Santiago, Venezuela Caracas, Ecuador
        Quito, Uruguay Montevideo, Iceland Reykjavik, Scotland Edinburgh,
        England London, Israel Jerusalem, Jordan Amman, Cyprus Nicosia""",
    ),
    "opposite": QuestionKind(
        "What is the opposite of {0}?",
        "The opposite of {0} is",
        """hot cold, big small, good bad, up down, left right, day night, black white, open closed,
        fast slow, hard soft, high low, early late, rich poor, strong weak, happy sad, old young,
        light dark, wet dry, full empty, clean dirty, loud quiet, near far, long short, thick thin,
        easy difficult, first last, begin end, buy sell, push pull, win lose, love hate, friend
        enemy, true false, right wrong, inside outside, above below, before after, always never,
        everything nothing, come go, give take, remember forget, question answer, summer winter,
        north south, east west, male female, alive dead, sweet sour, tall short, wide narrow,
        deep shallow, safe dangerous, brave cowardly, cheap expensive, smooth rough, sharp dull,
        success failure, victory defeat, increase decrease, add subtract, multiply divide,
        accept reject, arrive depart, attack defend, enter exit, laugh cry, float sink, heaven
        hell, peace war, positive negative, maximum minimum, ancient modern, visible invisible,
        possible impossible, guilty innocent, polite rude, simple complex, public private""",
    ),
    "plural": QuestionKind(
        "What do you call more than one {0}?",
        "One {0}, two",
        """child children, mouse mice, foot feet, tooth teeth, man men, woman women, goose geese,
        person people, ox oxen, leaf leaves, knife knives, wolf wolves, life lives, wife wives,
        half halves, shelf shelves, loaf loaves, thief thieves, city cities, baby babies, lady
        ladies, story stories, country countries, party parties, family families, berry berries,
        box boxes, bus buses, church churches, dish dishes, watch watches, glass glasses, fox
        foxes, class classes, brush brushes, potato potatoes, tomato tomatoes, hero heroes, cat
        cats, dog dogs, book books, car cars, tree trees, house houses, apple apples, friend
        friends, teacher teachers, table tables, chair chairs, river rivers, window windows,
        flower flowers, bird birds, ship ships, star stars, king kings, cup cups, road roads,
        hand hands, letter letters, boy boys, key keys, monkey monkeys, toy toys, day days,
        cactus cacti, crisis crises, analysis analyses, fungus fungi, nucleus nuclei""",
    ),
    "past": QuestionKind(
        'Which form of "{0}" is right yesterday?',
        "Today they {0}. Yesterday they",
        """go went, eat ate, see saw, run ran, come came, take took, give gave, make made, say said,
        tell told, think thought, buy bought, bring brought, teach taught, catch caught, fight
        fought, find found, write wrote, drive drove, ride rode, rise rose, speak spoke, break
        broke, steal stole, choose chose, freeze froze, swim swam, sing sang, ring rang, drink
        drank, begin began, sit sat, know knew, grow grew, throw threw, fly flew, draw drew, blow
        blew, fall fell, feel felt, keep kept, sleep slept, leave left, lose lost, meet met, pay
        paid, sell sold, send sent, build built, spend spent, stand stood, understand understood,
        win won, wear wore, get got, forget forgot, have had, do did, hear heard, hold held, walk
        walked, play played, jump jumped, talk talked, open opened, look looked, work worked, call
        called, ask asked, help helped, start started, want wanted, dance danced, live lived, love
        loved, move moved, stop stopped, plan planned, try tried, study studied, carry carried""",
    ),
    "language": QuestionKind(
        "What is the main language of {0}?",
        "The main language of {0} is",
        """France French, Germany German, Italy Italian, Spain Spanish, Portugal Portuguese, Greece
        Greek, Poland Polish, Hungary Hungarian, Sweden Swedish, Norway Norwegian, Denmark Danish,
        Finland Finnish, Russia Russian, Ukraine Ukrainian, Romania Romanian, Bulgaria Bulgarian,
        Serbia Serbian, Croatia Croatian, Turkey Turkish, Egypt Arabic, Iran Persian, China
        Chinese, Japan Japanese, Thailand Thai, Vietnam Vietnamese, Indonesia Indonesian, Mongolia
        Mongolian, Nepal Nepali, Australia English, Mexico Spanish, Peru Spanish, Chile Spanish,
        Argentina Spanish, Brazil Portuguese, Austria German, Israel Hebrew, Bangladesh Bengali,
        Iceland Icelandic, Colombia Spanish, Cuba Spanish, England English, Albania Albanian""",
    ),
}
"""Kinds of question by name."""

CONTINENTS = {
    "Africa": """Kenya, Egypt, Nigeria, Ghana, Morocco, Algeria, Tunisia, Libya, Senegal, Ethiopia,
    Tanzania, Uganda, Zimbabwe, Zambia, Angola, Mozambique, Namibia, Botswana, Sudan, Somalia,
    Rwanda, Cameroon, Mali, Niger, Chad""",
    "Asia": """China, Japan, India, Thailand, Vietnam, Indonesia, Nepal, Mongolia, Pakistan,
    Bangladesh, Iran, Iraq, Malaysia, Cambodia, Laos, Myanmar, Singapore, Kazakhstan, Uzbekistan,
    Bhutan, Afghanistan, South_Korea, the_Philippines, Sri_Lanka""",
    "Europe": """France, Germany, Italy, Spain, Portugal, Greece, Austria, Poland, Hungary, Sweden,
    Norway, Denmark, Finland, Ireland, Belgium, Romania, Bulgaria, Serbia, Croatia, Switzerland,
    Slovakia, Slovenia, Lithuania, Latvia, Estonia, the_Netherlands""",
    "America": """Canada, Mexico, Cuba, Jamaica, Brazil, Argentina, Chile, Peru, Colombia,
    Venezuela, Ecuador, Bolivia, Uruguay, Paraguay, Guatemala, Honduras, Nicaragua, Panama""",
}
THINGS = {
    "mammal": "dog, horse, elephant, tiger, rabbit, monkey, sheep, wolf, goat, camel",
    "bird": "sparrow, eagle, parrot, pigeon, penguin, owl, swan, crow, ostrich",
    "fish": "salmon, tuna, trout, shark, herring, cod, sardine, carp",
    "fruit": "banana, apple, mango, strawberry, pear, peach, grape, lemon, pineapple",
    "vegetable": "carrot, cabbage, onion, potato, spinach, broccoli, turnip, cauliflower",
    "tool": "hammer, screwdriver, wrench, saw, drill, chisel, shovel, axe",
    "vehicle": "car, bus, truck, bicycle, motorcycle, tractor, van, taxi",
    "instrument": "violin, piano, guitar, trumpet, flute, drum, cello, clarinet, harp",
    "sport": "football, tennis, basketball, hockey, baseball, rugby, volleyball",
    "drink": "coffee, tea, lemonade, milk, juice, beer, wine, cocoa",
    "metal": "iron, gold, silver, copper, aluminium, zinc, tin, nickel",
    "flower": "rose, tulip, daisy, lily, orchid, daffodil, sunflower, violet",
    "tree": "oak, pine, maple, birch, willow, elm, beech, cedar",
    "insect": "ant, bee, butterfly, mosquito, beetle, wasp, grasshopper, moth",
}
"""Things to choose from, by their kind."""
UNCOUNTED = ("drink", "metal", "sport")
"""Kinds whose words take no article."""


def dataset(split: str) -> list[dict[str, str]]:
    """Return questions of all kinds with their answers, in one fixed mixed order.

    Args:
        split: One of ``SPLITS``.

    Raises:
        ValueError: If the split is unknown.
    """
    asked = [
        *((row, row["target"]) for row in questions(split)),
        *((row, row["choices"][row["gold"]]) for row in choices(split)),
    ]
    return _mixed(
        {"question": row["question"], "answer": f"{row['prefix']} {target}."}
        for row, target in asked
    )


def questions(split: str) -> list[dict[str, str]]:
    """Return questions whose answers a model has to complete.

    Returns:
        Rows with the columns ``question``; ``prefix``, the beginning of the answer; ``target``,
        the word that completes it.

    Raises:
        ValueError: If the split is unknown.
    """
    return _mixed(
        {
            "question": kind.question.format(word),
            "prefix": kind.prefix.format(word),
            "target": target,
        }
        for name, kind in KINDS.items()
        for word, target in _part(name, kind.items(), split)
    )


def choices(split: str) -> list[dict[str, Any]]:
    """Return multiple-choice questions.

    Returns:
        Rows with the columns ``question``; ``prefix``, the beginning of every answer; ``choices``,
        its possible ends; ``gold``, the index of the right one.

    Raises:
        ValueError: If the split is unknown.
    """
    countries = [(word, home) for home, words in CONTINENTS.items() for word in _words(words)]
    things = [(word, kind) for kind, words in THINGS.items() for word in _words(words)]
    rows = []
    for word, home in _part("continent", countries, split):
        question, prefix = f"Where is {word}?", f"{_capital(word)} is a country in"
        rows.append(_choice(question, prefix, home, list(CONTINENTS)))
    for word, kind in _part("thing", things, split):
        article = "" if kind in UNCOUNTED else "an " if word[0] in "aeiou" else "a "
        question, prefix = f"What is {article}{word}?", f"{_capital(article + word)} is a kind of"
        rows.append(_choice(question, prefix, kind, list(THINGS)))
    return _mixed(rows)


def _part(kind: str, items: list[tuple[str, str]], split: str) -> list[tuple[str, str]]:
    """Return the split's share of a kind's items."""
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, but got {split!r}.")
    ordered = sorted(items, key=lambda item: _number(f"{kind} {item[0]}"))
    names = list(SPLITS)
    at = names.index(split)
    first, end = (
        round(len(ordered) * sum(SPLITS[name] for name in names[:count])) for count in (at, at + 1)
    )
    return ordered[first:end]


def _choice(question: str, prefix: str, right: str, answers: list[str]) -> dict[str, Any]:
    wrong = sorted((name for name in answers if name != right), key=lambda n: _number(question + n))
    offered = sorted([right, *wrong[: CHOICES - 1]])
    return {
        "question": question,
        "prefix": prefix,
        "choices": offered,
        "gold": offered.index(right),
    }


def _mixed(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: _number(row["question"]))


def _words(text: str) -> list[str]:
    return [word.strip().replace("_", " ") for word in text.replace("\n", " ").split(",")]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _number(text: str) -> int:
    """Return a number that, unlike ``hash``, is the same in every process and on every machine."""
    return zlib.crc32(text.encode())
