"""FINN+ in an environment of its own: what it is asked, the worker that runs inside it, and how it is started."""
