"""hierphase: diffusion models reveal the hierarchical nature of data.

A thin library behind the Jupyter Book of the same name, which reproduces Sclocchi, Favero and
Wyart (arXiv 2402.16991). One idea a module; the modules are the public interface:

``rhm``, ``bp``, ``meanfield``, ``processes`` and ``denoisers`` are the exactly solvable world,
``image_experiment``, ``pipeline``, ``probes``, ``bands``, ``bootstrap`` and ``transition`` are the
experiment on images, which ``sweep`` runs on many of them; ``adm``, ``datasets``, ``image_folder``,
``training`` and ``classifiers`` give it models and data; ``results``, ``figures`` and the command
line serve the chapters.
"""

__version__ = "0.1.0"
