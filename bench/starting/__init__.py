"""How long does a new process take until its first model is fitted?"""
