"""The course: student versions of the assignments, the handout, and the grader."""
