# cell: leaks
# loses: test_leaks
# says: d: the partner's row
# recognised: a leak overlooked, or taken for another one
leaks = dict(a="prompts on both sides", b="own reward", c="none", d="none", e="choice by the test")
