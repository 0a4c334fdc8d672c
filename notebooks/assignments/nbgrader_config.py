"""For nbgrader's own commands in this folder: what they must not hand out, and where their table of grades goes.

`python -m poise_lab.course` needs none of this. Started here, or with --course-dir: `nbgrader generate_assignment`.
"""

c = get_config()  # noqa: F821

# planted/ holds answers, right and wrong. nbgrader copies what lies beside a master to students, and back when it grades.
c.CourseDirectory.ignore = [".ipynb_checkpoints", "*.pyc", "__pycache__", "feedback", "planted", ".*"]
c.CsvExportPlugin.to = "nbgrader_grades.csv"  # grades.csv is that of poise_lab.course
