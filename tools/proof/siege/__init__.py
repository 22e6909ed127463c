"""What the tools have in common that attack from outside: damaged memory, no room, intruders, a daemon under siege."""
