"""The words the sample messages are put together from; ``make_triage.py`` does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """What messages are put together from.

    Attributes:
        cores: intent -> sentences that carry it, with ``{item}`` for a thing.
        items: things the shop sells.
        tones: sentences around it that change nothing; empty for none.
    """

    cores: Mapping[str, Sequence[str]]
    items: Sequence[str]
    tones: Sequence[str]


TRAIN = Words(
    cores={
        "delivery": (
            "Where is my {item}?",
            "My {item} has not arrived yet.",
            "The tracking page for the {item} has not changed since Monday.",
            "I am still waiting for the {item} I bought.",
            "Can you tell me when the {item} will get here?",
            "The courier says the {item} was delivered, but nothing is here.",
            "It has been 9 days and there is no sign of my {item}.",
            "When will you ship the {item}?",
            "Has the {item} left your warehouse?",
            "My parcel with the {item} seems to be lost.",
            "I was told the {item} would come last week.",
            "Could you look up where the package with the {item} is?",
            "Nobody rang the bell and the {item} is nowhere to be found.",
            "The {item} is late.",
        ),
        "refund": (
            "I would like my money back for the {item}.",
            "Please refund the {item}.",
            "I sent the {item} back and have not been paid back yet.",
            "You charged me twice for the {item}.",
            "I returned the {item} on the 3rd, where is the money?",
            "The {item} is not what I expected, I want a refund.",
            "How do I get the 40 euros back that I paid for the {item}?",
            "I am returning the {item}, please pay the amount back to my card.",
            "My refund for the {item} never came.",
            "I paid too much for the {item}, please return the difference.",
            "We do not like the {item} and want our money back.",
            "The shop promised to pay back the price of the {item}.",
            "I want to return the {item} for a full refund.",
            "Please give me the money for the {item} back.",
        ),
        "exchange": (
            "The {item} is too small, can I swap it for a larger one?",
            "I ordered the {item} in blue and would rather have green.",
            "Can I exchange the {item} for another colour?",
            "You sent size 38, but I need the {item} in 42.",
            "I would like to change the {item} for a different model.",
            "The {item} does not fit, may I have the next size up?",
            "Wrong colour: I need the {item} in white.",
            "Is it possible to swap the {item} for the bigger version?",
            "I picked the wrong {item} and want to exchange it.",
            "Can you exchange the {item}? It is too wide for our hall.",
            "I got the {item} in red, but I would like to trade it for grey.",
            "The {item} is too large, please send the small one instead.",
            "My sister has the same {item}, can we swap it for something else?",
            "I need the {item} in another size.",
        ),
        "cancel": (
            "Please cancel the {item}.",
            "I ordered the {item} by mistake, please do not send it.",
            "I changed my mind about the {item}, can you stop the order?",
            "Cancel my order of the {item}.",
            "I do not need the {item} any more, please call it off.",
            "Can I still cancel the {item}?",
            "I clicked twice, please cancel the second {item}.",
            "Stop the {item}, I found one elsewhere.",
            "My son ordered the {item} without asking, please cancel it.",
            "We are moving, so please do not ship the {item}.",
            "I want to withdraw my order for the {item}.",
            "Please take the {item} off my order before it ships.",
            "Kindly cancel the {item} I ordered an hour ago.",
            "I would like to call off the purchase of the {item}.",
        ),
        "damage": (
            "The {item} arrived broken.",
            "There is a crack in the {item}.",
            "The {item} came with a big scratch.",
            "My {item} was in pieces when I opened the box.",
            "The {item} stopped working after 2 days.",
            "The box was crushed and the {item} is dented.",
            "One part of the {item} is missing its screws and the leg is bent.",
            "The {item} leaks.",
            "The {item} does not switch on.",
            "I opened the parcel and found the {item} smashed.",
            "The {item} has a hole in it.",
            "The handle of the {item} came off on the first day.",
            "The {item} was chipped on arrival.",
            "The {item} is faulty.",
        ),
        "question": (
            "Is the {item} dishwasher safe?",
            "Do you have the {item} in stock?",
            "What is the {item} made of?",
            "How heavy is the {item}?",
            "Does the {item} come with a guarantee?",
            "Will you sell the {item} in other colours next year?",
            "Which {item} would you recommend for a small flat?",
            "How do I clean the {item}?",
            "Is the {item} suitable for children of 6?",
            "What are the measurements of the {item}?",
            "Can I see the {item} in your shop?",
            "Is there a discount if I buy 4 of the {item}?",
            "Where is the {item} made?",
            "Does the {item} need batteries?",
        ),
    },
    items=(
        "teapot", "desk lamp", "wool blanket", "coffee grinder", "rain coat", "bread knife", "garden chair",
        "picture frame", "rucksack", "alarm clock", "wall mirror", "frying pan", "kettle", "sun hat",
        "bath mat", "fruit bowl", "wooden shelf", "toaster", "linen shirt", "bicycle bell", "candle holder",
        "floor lamp", "salt mill", "winter hat", "plant pot", "cutting board", "pillow", "radio", "tent",
        "leather belt", "umbrella", "water bottle",
    ),
    tones=(
        "I need it by tomorrow.", "This is urgent.", "Please answer today.", "Please hurry.",
        "We leave on holiday tomorrow.", "I need this solved today.", "The party is tonight.",
        "It is a birthday present.", "Take your time.", "Thank you.", "Thanks a lot.",
        "Kind regards, Maria", "Have a nice day.", "Whenever you have a moment.", "Best wishes, Tom",
        "Thanks in advance.", "Greetings from Leeds.", "Next week is fine.", "", "", "", "", "", "",
    ),
)  # fmt: skip

HELD_OUT = Words(
    cores={
        "delivery": (
            "I have been looking out for the {item} all week and no parcel came.",
            "Any news on the shipment of the {item}?",
            "Your mail said the {item} was on its way, but my doorstep is empty.",
            "How much longer until the {item} reaches me?",
            "The postman has not brought the {item}.",
        ),
        "refund": (
            "I posted the {item} back to you 12 days ago and my account still shows no refund.",
            "Could I have a refund for the {item}, please?",
            "I am not happy with the {item} and ask for my money back.",
            "Please transfer the price of the {item} back to me.",
            "The {item} went back to you, but the money has not come back to me.",
        ),
        "exchange": (
            "Would you swap the {item} for a smaller one?",
            "I would prefer the {item} in black, can I exchange it?",
            "The {item} I chose is the wrong size, I need it in 40.",
            "Could we trade the {item} for the yellow one?",
            "May I exchange the {item} for a different size?",
        ),
        "cancel": (
            "I no longer want the {item}, please cancel.",
            "If it has not gone out yet, cancel the {item} for me.",
            "Please stop my purchase of the {item}.",
            "I must cancel the {item}, sorry for the trouble.",
            "The {item} was ordered by accident, do not send it please.",
        ),
        "damage": (
            "When I unpacked the {item}, it was cracked down the middle.",
            "The {item} came out of the box broken in two.",
            "The new {item} is scratched and dented.",
            "Something inside the {item} is broken, it does not work.",
            "The glass of the {item} is smashed.",
        ),
        "question": (
            "What does the {item} weigh?",
            "Is the {item} made of steel or plastic?",
            "Do you also have the {item} in stock in your shop?",
            "How should I wash the {item}?",
            "How long is the guarantee on the {item}?",
        ),
    },
    items=(
        "vase", "hand mixer", "camping stove", "wool scarf", "bookend", "door bell", "gravy boat",
        "bar stool", "garden hose", "sewing box", "pepper mill", "ski helmet",
    ),
    tones=(
        "I need an answer by Friday.", "Please be quick.", "The wedding is on Saturday.", "No rush.",
        "Many thanks.", "Best regards, Anna", "Any time this month is fine.", "Cheers, Bill", "", "",
    ),
)  # fmt: skip

GREETINGS = ("Hi, ", "Hello, ", "Good morning. ", "Dear team, ", "Hello there. ", "", "", "", "", "")
MENTIONS = (
    "My order is {order}.", "Order {order}.", "Order number {order}.", "It is order {order}.", "({order})",
    "The number is {order}.", "This is about {order}.", "Ref {order}.",
)  # fmt: skip

RUDE = (
    "Not our problem.",
    "Read the manual.",
    "You should have thought of that before.",
    "Wait like all others.",
)
