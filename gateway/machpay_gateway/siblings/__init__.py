"""Several gateway processes of one vendor, on one machine or several, behind one address. They never share a key.

    family       the identities, derived from the vendor's one key file, and where each is reached
    seal         how one process knows that a request comes from another one of the family
    line         the connections to one sibling
    front        in front of a process's application: which process a request belongs to
    worker       one process
    supervisor   starts the processes of this machine and starts them again when they die

A channel belongs to one identity and an identity to one process with a log of its own, so that a payment is decided by
exactly one process, wherever its request arrived.
"""
