"""What a conversion did, for a person (`str`) and for `--json` (`to_dict`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from ....errors import some


@dataclass
class Report:
    """Names of weights by what became of them; notes are sentences."""

    source: str  # what the weights were read from: "sd", "lvdm", ... (see recognise.py)
    loaded: list[str] = field(default_factory=list)  # our keys
    missing: list[str] = field(default_factory=list)  # our keys that the source does not have
    unexpected: list[str] = field(default_factory=list)  # the source's keys that have no place here
    reshaped: list[str] = field(default_factory=list)  # our keys whose axes of size 1 came or went
    notes: list[str] = field(default_factory=list)
    guessed: list[str] = field(default_factory=list)  # fields of config and schedule that the file does not tell

    def to_dict(self) -> dict:
        """Plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"source: {self.source}"]
        for name in ("loaded", "reshaped", "missing", "unexpected"):
            keys = getattr(self, name)
            lines.append(f"{name}: {len(keys)} weights ({some(keys)})" if keys else f"{name}: none")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
