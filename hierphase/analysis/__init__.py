"""What is read off pairs of x_0 and x̂0(t), and the worlds without a hierarchy as null models.

Every statistic here takes arrays, whichever experiment they come from.
"""
