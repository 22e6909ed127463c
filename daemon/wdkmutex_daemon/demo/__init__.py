"""The main job: worker processes count the words of a tree of files while they are killed, and the totals are right.

``counting``
    what is counted: a tree of files, cut into tasks
``state``
    the three Grt mutexes that the job is kept in, and every change made to them
``worker``
    a worker process; it may be killed at any instruction
``workers``
    the parent's side: starts workers, kills them, puts back what the dead had claimed
``job``
    the whole run, from the list of files to the result
``report``
    the result as a table or as JSON

Nothing is imported here: each worker process imports this package while the clock runs.
"""
