"""Say anew how good trained models of the book are, in their cards and in quality.json.

python benchmarks/judge.py digits fashion-mnist
"""

import sys

from hierphase.networks.catalogue import TRAININGS, model_directory
from hierphase.networks.training import judge_saved

if __name__ == "__main__":
    for name in sys.argv[1:]:
        judge_saved(TRAININGS[name], name, model_directory(name), seed=0)
        print(model_directory(name) / "README.md")
