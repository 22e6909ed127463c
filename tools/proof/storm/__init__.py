"""The crash storm: workers that are killed, stopped and interrupted while they keep books in shared mutexes."""
