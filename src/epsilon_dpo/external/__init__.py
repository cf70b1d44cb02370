"""AlpacaEval 2, Arena-Hard and MT-Bench: answers in each tool's format, and the tools run in their own environments."""
