# cell: leaks
# loses: test_leaks
# says: no longer a score on unseen prompts
# recognised: a leak overlooked, or taken for another one
leaks = dict(a="prompts on both sides", b="own reward", c="none", d="own reward", e="none")
