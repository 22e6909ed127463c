"""Named shared-memory segments as files: created, opened, locked, grown, removed.

Promises: a segment is created whole or not at all, belongs to this user, and no descriptor of it is below 3.
May use: base. Must not know: what is in a segment.
"""
