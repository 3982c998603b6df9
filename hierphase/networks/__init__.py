"""What is trained: the book's denoisers and classifiers, of images and of trees.

The catalogues say what each is and how ``hierphase train NAME`` makes it; the rest is how training
runs, stops, resumes and is judged.
"""
