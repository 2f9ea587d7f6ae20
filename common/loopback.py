"""Which addresses are this machine's own, for what is open to nobody else."""

LOOPBACK = ("127.0.0.1", "::1")


def is_this_machine(host: str) -> bool:
    """Whether `host` is one of the two addresses that only this machine has, in its one spelling.

    A name resolves to whatever somebody says. The rest of 127.0.0.0/8, and an address with a zone (`::1%lo`),
    are what each system makes of them.
    """
    return host in LOOPBACK
