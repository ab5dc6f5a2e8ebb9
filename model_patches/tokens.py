"""What both doors take for granted of a tokenizer, each with a library of its own to read it."""

T5_LENGTH = 120  # tokens of motion text where a tokenizer states no length of its own
UNBOUNDED = 100_000  # transformers writes "no limit" as a huge number
