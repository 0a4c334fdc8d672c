honest = {name: name in "acdf" for name in "fedcba"}
