"""Animal-activity scenes of GN-IVO's prompt generation: its 30 examples (paper Table 4), then further combinations.

The paper's 856 scenes come from Hu et al. 2025 and are not printed. The animals here are those of the examples and the
usual further ones of text-to-image work with animals doing things; with 20 activities they make 900 scenes.
"""

from __future__ import annotations

EXAMPLES = (  # Table 4, row by row, as printed ("a ant")
    "a cat washing dishes", "a dog washing dishes", "a duck washing dishes",
    "a monkey riding a bike", "a horse riding a bike", "a pig riding a bike",
    "a spider playing chess", "a rabbit playing chess", "a dolphin playing chess",
    "a deer reading a book", "a zebra reading a book", "a ant reading a book",
    "a lion washing dishes", "a cow washing dishes", "a turtle washing dishes",
    "a raccoon cooking dinner", "a bird cooking dinner", "a llama cooking dinner",
    "a lizard drawing a picture", "a kangaroo drawing a picture", "a shark drawing a picture",
    "a butterfly playing the piano", "a gorilla playing the piano", "a lizard playing the piano",
    "a whale writing a letter", "a bee writing a letter", "a fox writing a letter",
    "a mouse jogging in the park", "a chicken jogging in the park", "a bear jogging in the park",
)
ANIMALS = (
    "cat", "dog", "horse", "monkey", "rabbit", "zebra", "spider", "bird", "sheep", "deer", "cow", "goat", "lion",
    "tiger", "bear", "raccoon", "fox", "wolf", "lizard", "beetle", "ant", "butterfly", "fish", "shark", "whale",
    "dolphin", "squirrel", "mouse", "rat", "snake", "turtle", "frog", "chicken", "duck", "goose", "bee", "pig",
    "turkey", "fly", "llama", "camel", "bat", "gorilla", "hedgehog", "kangaroo",
)
ACTIVITIES = (
    "washing dishes", "riding a bike", "playing chess", "reading a book", "cooking dinner", "drawing a picture",
    "playing the piano", "writing a letter", "jogging in the park",  # these nine: Table 4
    "driving a car", "vacuuming the floor",  # these two: Tables 15 and 16
    "watering the plants", "painting a fence", "baking a cake", "flying a kite", "playing the guitar",
    "taking a photo", "drinking coffee", "walking in the rain", "sweeping the street",
)


def scenes(count: int) -> list[str]:
    """The first `count` scenes: the printed examples, then the other combinations, activity by activity.

    Fewer than `count` when there are not so many. All take the article "a", as the printed ones do.
    """
    known = dict.fromkeys(EXAMPLES)
    for activity in ACTIVITIES:
        known.update(dict.fromkeys(f"a {animal} {activity}" for animal in ANIMALS))
    return list(known)[:count]
