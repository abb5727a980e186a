"""What every int8 runtime has in common: how levels lie in int8, how a runtime rounds, and what of that was proved.

steps.py        the integer graph made fit for runtimes that multiply and round behind every sum
levels.py       which int8 stands for which level
arithmetic.py   each runtime's requantisation, to the bit
search.py       scales and biases that hit every threshold of the graph
certificate.py  the proof, or the exact number of accumulators that differ
record.py       the same as data and in words
"""
