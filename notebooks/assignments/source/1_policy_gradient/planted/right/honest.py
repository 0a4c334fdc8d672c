honest = {'a': True, 'b': False, 'c': True, 'd': True, 'e': False, 'f': True}
