"""`align@RUN` by a method that learns from its own answers.

In: the SFT policy, an online method, the prompts and the scorer of out/scorer. Out: what every run leaves in
out/align/RUN. A generation: prompts.py says which prompts and which random numbers, rollouts.py draws answers, has them
scored and takes their log-probs (answer_logps.py), the method turns them into advantages, online_trainer.py takes its
optimizer steps on them.
It neither samples nor scores itself: stages/align.py hands it both, so that it does not depend on how that is done.
"""
