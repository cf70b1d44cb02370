"""Stage `margins`: how far apart the two answers of each training and evaluation pair are, in nats; none by default.

In: out/pairs with the texts behind it, and a judge or the data's true reward. Out: both answers' scores, scaled so that
their difference is a Bradley-Terry margin, in out/margins, for the methods that need scores.
It chooses no pairs, and what it writes does not depend on any policy or run.
"""
