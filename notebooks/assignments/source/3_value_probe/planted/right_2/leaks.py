leaks = {"e": "choice by the test", "c": "none", "a": "prompts on both sides"} | dict.fromkeys("bd", "own reward")
