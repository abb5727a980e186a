"""Files on disk: written whole or not at all, and the folders that ship with the package."""
