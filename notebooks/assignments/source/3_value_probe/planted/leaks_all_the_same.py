# cell: leaks
# loses: test_leaks 4
# says: a: one row of a pair
leaks = dict.fromkeys("abcde", "own reward")
