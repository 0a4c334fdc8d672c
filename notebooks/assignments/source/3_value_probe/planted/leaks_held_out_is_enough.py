# cell: leaks
# loses: test_leaks
# says: b: the target is the reward of the very response
# recognised: a leak overlooked, or taken for another one
leaks = dict(a="prompts on both sides", b="none", c="none", d="own reward", e="choice by the test")
