# cell: leaks
# loses: test_leaks
# says: nothing leaks
leaks = dict(a="prompts on both sides", b="own reward", c="own reward", d="own reward", e="choice by the test")
