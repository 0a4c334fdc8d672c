# cell: leaks
# loses: test_leaks
# says: a: one row of a pair
# recognised: a leak overlooked, or taken for another one
leaks = dict(a="none", b="own reward", c="none", d="own reward", e="choice by the test")
