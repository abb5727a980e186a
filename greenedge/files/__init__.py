"""Atomic writing of files, and the data folders that ship with the package."""
