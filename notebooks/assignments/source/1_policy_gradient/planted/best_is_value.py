# cell: best_baseline
# loses: test_best_example, test_best
# says: this is V(x)
# recognised: V(x), which forgets the squared scores
# values() of notebook 01's policy
def best_baseline(prob, reward, score):
    return (prob * reward).sum(1)
