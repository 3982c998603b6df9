"""The Random Hierarchy Model, the world that is solved exactly.

Its data, their corruption, the posterior by belief propagation, the mean-field theory, and what
follows from them.
"""
