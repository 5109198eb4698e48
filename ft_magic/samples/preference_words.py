"""What the preference sample is made of: questions to a small shop, good answers, and three kinds of bad ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One matter a customer writes about.

    Attributes:
        about: what it is about, as it stands inside a sentence.
        good: the answer the shop wants: kind, short, with the next step.
        asked: the message, in one or more wordings.
    """

    about: str
    good: str
    asked: tuple[str, ...]


TRAIN = (
    Case("the late teapot", "Sorry for the wait. Your teapot left us on Monday and should reach you by Thursday.",
         ("Where is my teapot? I ordered it a week ago.", "My teapot has still not come.")),
    Case("the cracked vase", "I am sorry about the vase. Send us a photo and we will post a new one today.",
         ("The vase arrived with a crack.", "I opened the box and the vase is cracked. What now?")),
    Case("the refund", "Of course. Post it back with our free label and you have your money within five days.",
         ("Can I get my money back for the lamp?", "The lamp is not for me. I want a refund.")),
    Case("the wrong size", "No problem. Send back the size M and we will post the size L at once.",
         ("The jacket is too small. I need an L.", "I ordered M but need a larger jacket.")),
    Case("the cancelled order", "Done: your order is cancelled and nothing will be charged.",
         ("Please cancel my order from this morning.", "I changed my mind, can you stop my order?")),
    Case("opening hours", "We are open from nine to six, Monday to Saturday. You are welcome any time.",
         ("When are you open?", "Can I come to the shop on Saturday?")),
    Case("the missing screw", "Sorry about that. We are posting a bag of screws to you today.",
         ("There is a screw missing from the shelf.", "My shelf came without the last screw.")),
    Case("washing the scarf", "Wash it by hand in cold water and let it dry flat.",
         ("How do I wash the wool scarf?", "Can the scarf go into the machine?")),
    Case("delivery abroad", "Yes, we deliver to Ireland. It takes five days and costs eight pounds.",
         ("Do you deliver to Ireland?", "I live in Dublin. Can you send me a parcel?")),
    Case("the discount code", "Thank you for telling us. Try SPRING10 in capitals; it works until Sunday.",
         ("Your discount code does not work.", "The code from the newsletter is refused.")),
    Case("the second charge", "I am sorry. One of the two payments goes back to your card today.",
         ("I was charged twice for one order.", "Why did you take the money two times?")),
    Case("the new address", "Thank you. Your parcel will go to the new address.",
         ("I have moved. Can you change the address?", "Please send my parcel to 4 Mill Road instead.")),
    Case("the gift wrapping", "With pleasure. We will wrap it and add a card with your words.",
         ("Can you wrap the book as a gift?", "It is a present. Do you do wrapping?")),
    Case("the broken zip", "Sorry about the zip. Send us the bag with our free label and we will repair it.",
         ("The zip of my bag broke after two days.", "My new bag does not close any more.")),
    Case("the receipt", "Here it comes: I have just mailed the receipt to you.",
         ("I need a receipt for my taxes.", "Could you send me the bill again?")),
    Case("the empty box", "I am very sorry. We are sending your cups again today, by express.",
         ("The box came, but it was empty.", "I paid for six cups and got an empty box.")),
    Case("the guarantee", "The kettle has a guarantee of two years. Keep the receipt, that is all you need.",
         ("How long is the guarantee on the kettle?", "Is there a warranty for the kettle?")),
    Case("the blue chairs", "The blue chairs are back on the tenth. Shall I keep two for you?",
         ("When will the blue chairs be back?", "I wanted blue chairs, but they are sold out.")),
    Case("the login", "Sorry about that. I have mailed you a link to choose a new password.",
         ("I cannot log in any more.", "I forgot my password. Help!")),
    Case("the newsletter", "Done: you will get no more mails from us.",
         ("Please stop sending me the newsletter.", "How do I get off your mailing list?")),
    Case("the loud fan", "Sorry for the noise. Tighten the screw at the back; if it stays loud we will swap it.",
         ("The fan is very loud.", "My new fan rattles all night.")),
    Case("paying by bill", "Yes, choose payment by bill at the checkout. You then have fourteen days.",
         ("Can I pay by bill?", "I do not have a card. How can I pay?")),
    Case("the wrong colour", "Sorry for the mix-up. The green mug is on its way; please keep the red one.",
         ("I ordered a green mug and got a red one.", "You sent the wrong colour.")),
    Case("the parcel next door", "Your parcel is with your neighbour at number 12. I hope you like it.",
         ("It says delivered, but I have nothing.", "Who took my parcel?")),
    Case("the table's height", "The table is 74 centimetres high and fits most chairs.",
         ("How high is the table?", "Will my chairs fit under the table?")),
    Case("the battery", "It needs two AA batteries. They are not in the box, so please buy them with it.",
         ("Which batteries does the clock need?", "Are batteries included with the clock?")),
    Case("the return label", "Of course, I have mailed the label. Print it and put it on the box.",
         ("I lost the return label.", "How do I get a label to send it back?")),
    Case("the stained shirt", "I am sorry about the stain. A new shirt leaves today; no need to return the old one.",
         ("There is a stain on the shirt.", "The shirt I got is dirty.")),
    Case("the express delivery", "Yes. Order before two today and it reaches you tomorrow.",
         ("Can I have it tomorrow?", "I need the cake stand by Friday. Is there express?")),
    Case("the oven", "Yes, the dish is safe up to 230 degrees.",
         ("Can the dish go into the oven?", "How hot can I heat the baking dish?")),
    Case("the manual", "I have mailed you the manual. Page three shows how to start.",
         ("The coffee machine came without a manual.", "How do I switch the coffee machine on?")),
    Case("the voucher", "Yes, your voucher is good for another year.",
         ("Is my voucher from last year still valid?", "I found an old voucher. Can I use it?")),
    Case("the wobbly stool", "Sorry about the stool. Turn the feet to level it; if it still wobbles we replace it.",
         ("My bar stool wobbles.", "The stool does not stand straight.")),
    Case("the price", "You are right, and I am sorry. We will refund the four pounds.",
         ("It was cheaper on your page yesterday.", "I paid four pounds more than the price shown.")),
    Case("the spare lid", "Yes, we have the lid. It costs three pounds with postage.",
         ("Can I buy a new lid for my pan?", "I broke the glass lid. Do you sell only the lid?")),
    Case("the late refund", "Sorry for the wait. Your refund left us today and is with you in two days.",
         ("I sent the boots back two weeks ago. Where is my money?", "Still no refund for my boots.")),
    Case("the large order", "Gladly. From twenty cups on you pay ten percent less.",
         ("Do I get a discount for thirty cups?", "We need many cups for our cafe.")),
    Case("the assembly", "It takes about an hour, and one person can do it. All tools are in the box.",
         ("Is the wardrobe hard to build?", "Do I need help to put up the wardrobe?")),
    Case("the smell", "It fades after two days by an open window. If it does not, we take it back.",
         ("The new rug smells.", "My rug smells of plastic. Is this normal?")),
    Case("the two parcels", "Your order comes in two parcels. The second one arrives on Wednesday.",
         ("Half of my order is missing.", "Only the plates came, where are the bowls?")),
    Case("the phone number", "You reach us at 0123 456 from nine to six. I can also help you right here.",
         ("Is there a number I can call?", "I want to talk to a person.")),
    Case("the torn tent", "I am sorry about the tent. We will send a new one before your trip on Friday.",
         ("The tent has a hole and we leave on Friday.", "My new tent is torn.")),
    Case("the engraving", "Yes, we engrave up to twelve letters for five pounds.",
         ("Can you put a name on the pen?", "Do you do engraving?")),
    Case("the nut allergy", "The chocolate has no nuts, but it is made where nuts are used.",
         ("Is there any nut in the chocolate?", "My son has a nut allergy. Is this safe?")),
    Case("the bulb", "It takes any bulb with a small screw, up to 40 watts.",
         ("Which bulb fits the desk lamp?", "The bulb is dead. What do I buy?")),
    Case("the plant", "Water it once a week and keep it out of the sun. It will be fine soon.",
         ("My plant is losing its leaves.", "How often do I water the fern?")),
    Case("the pick-up", "Yes, choose pick-up at the checkout. It is ready two hours later.",
         ("Can I pick up my order in the shop?", "I would rather collect it myself.")),
    Case("the old model", "Yes, the new filter fits the old model too.",
         ("Does the filter fit my old jug?", "I have the jug from 2019. Which filter do I need?")),
    Case("the rude driver", "I am sorry about that. I have told the delivery firm and they will call you.",
         ("Your driver threw the parcel over the fence.", "The delivery man was very rude.")),
    Case("the review", "Thank you, that is kind! I will pass it on to the team.",
         ("I love my new chair, thank you!", "Just wanted to say the chair is great.")),
    Case("the children's seat", "It is made for children from one to four years.",
         ("From what age is the bike seat?", "Is the seat right for my daughter? She is two.")),
    Case("the rust", "Knives should not rust so soon, sorry. We will send a new one.",
         ("The knife has rust after a week.", "My kitchen knife is rusting.")),
    Case("the instalments", "Yes, from 100 pounds on you can pay in three parts at no cost.",
         ("Can I pay in parts?", "The sofa is dear. Do you offer instalments?")),
    Case("the second-hand corner", "Yes, returned things are at half price on our page called Again.",
         ("Do you sell used things?", "What happens to the things people return?")),
    Case("the holiday", "Of course. We will hold your parcel until you are back on the third.",
         ("I am away next week. Can you wait with the parcel?", "Nobody is home until the third.")),
    Case("the short cable", "The cable is 1.5 metres. We have one of three metres for six pounds.",
         ("The lamp's cable is too short.", "How long is the cable of the lamp?")),
    Case("the app", "Sorry about that. Please update the app; version 3 opens again.",
         ("Your app does not open.", "The app crashes when I start it.")),
    Case("the mixed-up order", "Sorry for the mix-up. Keep the book; your puzzle is on its way.",
         ("I got a book, but ordered a puzzle.", "This is not what I ordered.")),
    Case("the paint", "The paint is safe for toys and dries in two hours.",
         ("Is the paint safe for toys?", "How long does the paint need to dry?")),
    Case("the job", "Thank you for asking. Please mail a short letter to jobs at our address.",
         ("Do you have a job for me?", "Are you hiring this summer?")),
)  # fmt: skip

HELD_OUT = (
    Case("the late bicycle bell", "Sorry for the wait. Your bell left us yesterday and arrives on Friday.",
         ("I have been waiting ten days for a bicycle bell.",)),
    Case("the dented pot", "I am sorry about the pot. Send us a photo and a new one leaves today.",
         ("My cooking pot has a big dent.",)),
    Case("the pillow", "Of course. Post it back with our free label and we return the money.",
         ("The pillow is too hard. May I return it?",)),
    Case("the tight shoes", "No problem. Send them back and we will post a pair in 42.",
         ("The shoes pinch. Do you have them in 42?",)),
    Case("the double order", "Done: one of the two orders is cancelled.",
         ("I ordered the same hat twice by mistake.",)),
    Case("Sunday", "We are closed on Sunday and open again on Monday at nine.",
         ("Are you open on Sunday?",)),
    Case("the missing handle", "Sorry about that. The handle for your drawer is in the post.",
         ("My chest of drawers has one handle too few.",)),
    Case("cleaning the rug", "Use a damp cloth and a little soap, and let it dry in the air.",
         ("How do I get a coffee stain out of the rug?",)),
    Case("delivery to Spain", "Yes, we deliver to Spain. It takes six days and costs nine pounds.",
         ("Do you also ship to Spain?",)),
    Case("the late payment", "Thank you, your payment has arrived. All is well.",
         ("Has my payment arrived?",)),
    Case("the gift card", "With pleasure. You find gift cards from ten pounds on our page.",
         ("Do you sell gift cards?",)),
    Case("the broken radio", "Sorry about the radio. Send it in with our free label and we repair it.",
         ("The radio went silent after a week.",)),
    Case("the invoice", "Gladly. I have mailed you an invoice with your firm's name.",
         ("I need an invoice with my company on it.",)),
    Case("the lost parcel", "I am very sorry. We are sending everything again today.",
         ("The post says my parcel is lost.",)),
    Case("the mixer", "The mixer has a guarantee of two years, so we will repair it for free.",
         ("My mixer died after a year. Can you help?",)),
    Case("the yellow coat", "The yellow coat is back in May. Shall I write to you then?",
         ("Will you have the yellow coat again?",)),
    Case("the account", "Done: your account and all your data are deleted.",
         ("Please delete my account.",)),
    Case("the squeaking door", "Sorry for the noise. A drop of oil on the hinge helps; if not, call us.",
         ("The cupboard door squeaks.",)),
    Case("the wrong book", "Sorry for the mix-up. The right book leaves today; please keep the other one.",
         ("You sent me somebody else's book.",)),
    Case("the sofa's width", "The sofa is 190 centimetres wide and comes in two parts.",
         ("Will the sofa fit through a narrow door?",)),
    Case("the torch", "It needs one AAA battery, and it is in the box.",
         ("What battery goes into the torch?",)),
    Case("the scratched mirror", "I am sorry about the scratch. We will replace the mirror this week.",
         ("There is a long scratch on the mirror.",)),
    Case("the birthday", "Yes. Order before two today and it is there for the birthday tomorrow.",
         ("The birthday is tomorrow. Can you make it?",)),
    Case("the freezer", "Yes, the boxes can go into the freezer and the dishwasher.",
         ("Are the lunch boxes safe in the freezer?",)),
    Case("the heavy parcel", "Of course. The driver will carry it to your flat at no cost.",
         ("I cannot carry the parcel up the stairs.",)),
    Case("the charger", "Yes, we have the charger. It costs seven pounds with postage.",
         ("Can I buy a second charger for the drill?",)),
    Case("the school", "Gladly. Schools pay fifteen percent less; just mail us your order.",
         ("We are a school. Is there a discount?",)),
    Case("the garden bench", "It takes about half an hour with two people.",
         ("How long does it take to build the bench?",)),
    Case("the complaint", "You are right, and I am sorry. I will call you today and put it right.",
         ("Nobody has answered me for a week!",)),
    Case("the thank-you", "Thank you, that makes our day!",
         ("Great service, thank you all!",)),
    Case("the leaking bottle", "Sorry about the bottle. A new lid is in the post to you.",
         ("My water bottle leaks.",)),
    Case("the dog", "Dogs are welcome in our shop. There is water by the door.",
         ("May I bring my dog to the shop?",)),
)  # fmt: skip

RUDE = (
    "Not our problem. Read the terms next time.",
    "We have better things to do than to talk about {about}.",
    "If you had read the page, you would not need to ask about {about}.",
    "So what? Other people do not complain about {about}.",
    "You are the tenth one today with {about}. Wait like all the others.",
    "That is your own fault. Goodbye.",
    "Nobody here cares about {about}, to be honest.",
    "What do you expect for that price?",
    "Stop writing to us about {about}.",
    "Are you serious? Look it up yourself.",
)
EVASIVE = (
    "It depends. Somebody may look into {about} at some point.",
    "I cannot say anything about {about}. Please ask another department.",
    "There are many possible reasons for this. Maybe try again later.",
    "That is an interesting question. There are different views on {about}.",
    "We have noted {about}. We cannot promise that anyone will answer.",
    "Hard to say. You could wait some weeks and see what happens with {about}.",
    "I am not sure who is responsible for {about}. It is not us.",
    "This may or may not be possible. The rules change often.",
    "Please see our general page for general information on {about}.",
    "I am only a machine and cannot help you with {about}.",
)
RAMBLING = (
    (
        "As you may know, our shop was founded many years ago, and ever since then, day after day, we have thought "
        "about things like {about}, which is a topic with many sides."
    ),
    (
        "Thank you so very much for your most valued message, which we have read with the greatest interest, and "
        "which brings us, once more, to {about}, a matter of importance to us all."
    ),
    (
        "Well, there is a lot one could say about {about}. First of all there is the first point. Then there is the "
        "second point. And in the end there is of course the third point."
    ),
    (
        "When we talk about {about}, we must first ask what a customer is. A customer is a person. A person has "
        "wishes. Wishes are important. This is why we have a shop."
    ),
    (
        "Oh, {about}! My aunt had the very same thing, or maybe it was my cousin, and she told me a long story about "
        "it which I will now try to remember as well as I can."
    ),
    (
        "In general, and speaking in broad terms, and with all due care, and without going into detail, one can say "
        "that {about} is something that people do ask about from time to time."
    ),
    (
        "We at the shop believe in quality, in service, in trust, in the future, in people, and in quality again, and "
        "so you can be sure that {about} is in the best of hands, as always."
    ),
    (
        "Did you know that we also sell lamps, rugs, cups, chairs, tables and many more things at great prices? Have "
        "a look! As for {about}, have a look at our lamps too!"
    ),
)
