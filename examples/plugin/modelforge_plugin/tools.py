"""A tool: a function with types and a line for each argument, which the policy may call."""


def minus(a: int, b: int) -> int:
    """Subtract a number from another.

    Args:
        a: The first.
        b: What is taken from it.
    """
    return int(a) - int(b)
