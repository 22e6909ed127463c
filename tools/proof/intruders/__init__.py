"""Attackers: bytes that no client sends, damaged memory, forged names and identities."""
