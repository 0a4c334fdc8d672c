# cell: leaks
# loses: test_leaks
# says: a: one row of a pair
# recognised: a leak overlooked, or taken for another one
leaks = dict.fromkeys("abcde", "own reward")
