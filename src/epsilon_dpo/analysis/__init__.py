"""What is measured without asking a judge: intervals, differences, the KL from the reference, ε-DPO's decisions.

In: wins and other values by prompt; policies, reference and samples. Out: estimates with their intervals, in nats or
shares.
It draws nothing and writes no prose; report/ does.
"""
