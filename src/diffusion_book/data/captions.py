"""The captions of `scenes`: a grammar small enough to be written down, and to be read again. Chapter 9.

    caption  = picture ", on " ground
    picture  = "a " thing                           one thing
             | "two " thing "s"                     two alike
             | "a " thing relation "a " thing       two things, one beside or above the other
    thing    = size tint object                     "small red cat"
    relation = "left of" | "right of" | "above" | "below"

Size, tint and ground may be left unsaid: "a cat" is a caption of every picture of one cat. `SYNONYMS` may stand for the
words that they are listed beside.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from diffusion_book.data.vocabulary import Vocabulary

OBJECTS = (
    *("anchor", "ball", "boat", "car", "cat", "chair", "crab", "crown", "dinosaur", "duck", "flower", "guitar"),
    *("hat", "house", "key", "magnet", "moon", "octopus", "plane", "rabbit", "snake", "star", "trophy", "umbrella"),
)
NEW_OBJECTS = ("book", "cactus", "mushroom", "pear")
"""Held out: no training picture shows them."""
TINTS = ("red", "green", "blue", "yellow")
NEW_TINTS = ("purple",)
"""Held out, as the objects are."""
SIZES = ("small", "big")
GROUNDS = ("white", "grey", "yellow", "pink", "blue", "green")
"""Pale, but for grey: a yellow cat is seen on yellow."""
RELATIONS = ("left of", "right of", "above", "below")
"""Of the first thing to the second. Each stands beside its opposite."""
SYNONYMS = {
    "small": "little",
    "big": "large",
    "left of": "to the left of",
    "right of": "to the right of",
    "above": "over",
    "below": "under",
    "boat": "ship",
    "plane": "aeroplane",
    "rabbit": "bunny",
}
LONGEST = 16
"""More words than any caption has: the row of numbers that a caption becomes is so long."""


def plural(noun: str) -> str:
    """Of an object's name."""
    if noun == "cactus":
        return "cacti"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "sh", "ch")) else f"{noun}s"


def _words() -> tuple[str, ...]:
    nouns = [*OBJECTS, *NEW_OBJECTS, *(SYNONYMS[name] for name in OBJECTS if name in SYNONYMS)]
    spoken = ["a", "two", "on", *SIZES, *TINTS, *NEW_TINTS, *GROUNDS, *RELATIONS, *SYNONYMS.values()]
    return tuple(dict.fromkeys(" ".join([*spoken, *nouns, *map(plural, nouns)]).split()))


WORDS = ("", *_words())
"""All words of the grammar. Their numbers are what a network is told; number 0 is no word."""
NUMBERS = {word: number for number, word in enumerate(WORDS)}
SCENES = Vocabulary(WORDS, LONGEST, "data.captions.WORDS")
"""Of the pictures of `scenes`."""


@dataclass(frozen=True)
class Thing:
    """What a caption says of one object; None where it says nothing."""

    object: str
    tint: str | None = None
    size: str | None = None


@dataclass(frozen=True)
class Scene:
    """What a caption says.

    Attributes:
        things: one, or two in a relation.
        relation: of the first to the second; None where there is one.
        count: how many objects there are to see; 2 with one thing is two alike.
        ground: None where it is not said.
    """

    things: tuple[Thing, ...]
    relation: str | None = None
    count: int = 1
    ground: str | None = None


def plain(word: str) -> str:
    """A way to say a word: as it is."""
    return word


def write(scene: Scene, say: Callable[[str], str] = plain) -> str:
    """The caption of a scene.

    Args:
        say: called with every word that has a synonym, for one of the two.
    """
    said = [_noun_phrase(thing, len(scene.things) < scene.count, say) for thing in scene.things]
    if scene.relation is not None:
        said.insert(1, _or_synonym(scene.relation, say))
    return " ".join(said) + (f", on {scene.ground}" if scene.ground else "")


def _noun_phrase(thing: Thing, two: bool, say: Callable[[str], str]) -> str:
    noun = _or_synonym(thing.object, say)
    words = ("two" if two else "a", thing.size and _or_synonym(thing.size, say), thing.tint)
    return " ".join([*filter(None, words), plural(noun) if two else noun])


def _or_synonym(word: str, say: Callable[[str], str]) -> str:
    return say(word) if word in SYNONYMS else word


def read(caption: str) -> Scene:
    """What a caption says: the inverse of `write`.

    Raises:
        ValueError: it is no sentence of the grammar.
    """
    text = " ".join(re.sub(r"[,.]", " ", caption.lower()).split())
    for word, synonym in SYNONYMS.items():
        text = re.sub(rf"\b{plural(synonym)}\b", plural(word), re.sub(rf"\b{synonym}\b", word, text))
    found = _sentence().fullmatch(text)
    if found is None:
        raise ValueError(
            f"{caption!r} is no caption of these pictures, such as 'a small red cat left of a big blue duck, on white' "
            "or 'two big green keys, on pink'; data.captions says which words there are"
        )
    part = found.groupdict()
    ground, relation = part["ground"], part["relation"]
    if part["objects"]:
        singular = {plural(name): name for name in (*OBJECTS, *NEW_OBJECTS)}
        return Scene((Thing(singular[part["objects"]], part["tints"], part["sizes"]),), None, 2, ground)
    first = Thing(part["object1"], part["tint1"], part["size1"])
    if relation is None:
        return Scene((first,), None, 1, ground)
    return Scene((first, Thing(part["object2"], part["tint2"], part["size2"])), relation, 2, ground)


@functools.cache
def _sentence() -> re.Pattern[str]:
    def one_of(name: str, words: Sequence[str]) -> str:
        return f"(?P<{name}>{'|'.join(words)})"

    def thing(number: str, nouns: Sequence[str], several: str = "") -> str:
        size, tint = one_of(f"size{number}", SIZES), one_of(f"tint{number}", (*TINTS, *NEW_TINTS))
        return f"(?:{size} )?(?:{tint} )?{one_of(f'object{number}', nouns)}"

    nouns = (*OBJECTS, *NEW_OBJECTS)
    pair = thing("s", [plural(noun) for noun in nouns])
    two = f"(?:an? )?{thing('1', nouns)}(?: {one_of('relation', RELATIONS)} (?:an? )?{thing('2', nouns)})?"
    return re.compile(f"(?:two {pair}|{two})(?: on (?:an? )?{one_of('ground', GROUNDS)})?")


def encode(captions: Sequence[str], nearest: bool = False) -> Tensor:
    """Captions as numbers of words, [K, LONGEST] int64; see `Vocabulary.encode`."""
    return SCENES.encode(captions, nearest)


def decode(tokens: Tensor) -> list[str]:
    """The words of numbers [K, L], without commas."""
    return SCENES.decode(tokens)
