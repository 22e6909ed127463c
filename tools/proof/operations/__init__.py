"""The catalogue of operations: what is done to mutexes, once, for whoever tries whether it holds.

It knows locks, and an :class:`~proof.operations.actor.Actor` that says what they are and looks at what is found. Who is
killed, interrupted or damaged on the way, and what must hold then, is the tools' affair.
"""
