"""What a command says on standard output while it works: a live display on a terminal, a few plain lines elsewhere."""

from lavita.console.command_line import invocation, this_command
from lavita.console.display import Channel, Display
from lavita.console.events import Note, Plan, Progress

__all__ = ["Channel", "Display", "Note", "Plan", "Progress", "invocation", "this_command"]
