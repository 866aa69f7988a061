"""The plainest NumPy float64 twin of every rule of the library: what the native code is compared with.

Nothing here is clever and nothing here imports fastopt. Each module ends in one registry by name; the conformance tests look
every registered rule up with `twin` and fail with a sentence when somebody added a rule without its twin.
"""


def twin(registry: dict, kind: str, name: str):
    """The twin called `name`, or an assertion that says what is missing and where to add it."""
    assert name in registry, (
        f"the native core registers the {kind} {name!r}, but tests/reference has no NumPy twin of that name: "
        f"add one to its registry (known twins: {', '.join(sorted(registry))})"
    )
    return registry[name]
