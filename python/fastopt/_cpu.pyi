"""Types of the small native module that asks the processor what it can do."""

def supported() -> list[str]:
    """Instruction sets that this processor and operating system support, best first, such as ["v4", "v3"] or ["neon"]."""
