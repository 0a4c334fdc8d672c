def cross_advantages(rewards, values):
    return rewards - pl.rollouts.leave_one_out_mean(values)
