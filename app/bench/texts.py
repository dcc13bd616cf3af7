"""Two texts for tests that need real words: on drawn tokens a model soon repeats itself, whatever came before."""

from __future__ import annotations

LIGHTHOUSE = """
The old lighthouse stood where the road ended, and nobody had lit its lamp for thirty years. Every evening Marta walked
there with her dog, sat down on the lowest step and told him what had happened at school. One day in November the door
was open. Somebody had swept the stairs, and from the room at the top she could hear a kettle and a man who sang in a
language she did not know. She counted the steps on the way up, as she always did, and at the hundred and twelfth the
singing stopped. "You are late," said the man, and put a second cup on the table. "The ships will be here at nine, and
there is still the glass to clean." Marta looked at the dog, and the dog looked at the stove. Far out, where the sea
and the sky had the same grey, a light went on, then another, and then a whole row of them, and all of them were coming
"""
"""A story, cut off where it could go on in many ways."""

BREAD = """
To bake a plain loaf you need five hundred grams of flour, three hundred and fifty of water, ten of salt, and a little
yeast. Mix the flour with the water first and leave it alone for half an hour; it does more by itself than you could by
kneading. Then add the salt and the yeast, and fold the dough four times, turning the bowl each time by a quarter.
Cover it. In a warm kitchen it will have doubled after three hours, in a cold one let it stand overnight. Heat the oven
as far as it goes, with a heavy pot inside, and do not open it too early. Drop the dough into the pot, cut the top with
a sharp knife, put the lid on, and bake for thirty minutes. Take the lid off and bake until the crust is dark brown.
Most people take their bread out too soon. Let it cool on a rack, and listen: a good loaf sings. When it is cold, cut
"""
"""A recipe, cut off as well."""
