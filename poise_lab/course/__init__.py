"""The course: student versions of the assignments, the handout, and the grader."""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TIMEOUT = 120  # seconds per cell; the slowest cell of a solution takes a tenth of it
WHERE = "Hand it in where your course says."
