"""One module a tool; its ``command`` is what ``python -m proof`` runs."""
