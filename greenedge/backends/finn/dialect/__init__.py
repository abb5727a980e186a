"""The network in FINN's hardware terms: operations, the rules that lower a graph to them, wires and their order."""
