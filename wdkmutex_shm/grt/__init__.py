"""Names for users: the class ``Grt``, and the session of this process with its instance.

Promises: one call is one decision; what is not found, exists already or has another type is an error of its own.
May use: everything below. Must not know: multiprocessing's types, the command line.
"""
