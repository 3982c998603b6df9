"""Every command that the README or a page says to type, and what the tests run for it.

Long commands run at a reduced size, and stand-ins take the place of weights and images that are not
at hand. A command that is in no table fails tests/test_documented.py.
"""

TINY = "-p n_per_class 1 -p n_times 2 -p num_inference_steps 4"
FASHION = "hierphase sweep imagenet-transition --preset fashion-mnist"
TINY_DENOISERS = (
    '-p sizes \'{"unet": [[64], []], "transformer": [[], []]}\' -p n_data 4 -p n_samples 8 '
    "-p n_times 2 -p num_inference_steps 20"
)
#: A command as it stands on a page -> what is run for it: more options, or all of it.
RUN = {
    "hierphase list": "",
    "hierphase run bp-theory -p L 8 --output runs/shallow": "-p n_rules 2 -p n_data 2",
    "hierphase run exponents -p v 16 -p m 4": (
        "-p n_leaves 32 -p n_rules 2 -p n_data 1 -p n_draws 2 -p n_population 100"
    ),
    "hierphase run gaussian-diffusion -p n_stepwise 1024 --output runs/more-walks": (
        "hierphase run gaussian-diffusion -p v 8 -p m 3 -p L 4 -p n_rules 2 -p n_data 2 "
        "-p n_times 3 -p n_stepwise 8 --output runs/more-walks"
    ),
    "hierphase run imagenet-transition -p recompute True --output runs/again": (
        "-p preset digits -p n_per_class 4 -p n_times 5 -p num_inference_steps 8"
    ),
    "hierphase run image-layers -p preset digits": "",
    "hierphase run image-correlations -p preset digits -p recompute True": (
        '-p changes \'{"n_per_class": 1, "n_times": 4, "num_inference_steps": 8, '
        '"n_trajectories": 3}\' -p n_resamples 20'
    ),
    "hierphase run imagenet-transition -p preset digits -p recompute True "
    "-p num_inference_steps 25": ("-p n_per_class 4 -p n_times 5"),
    "hierphase sweep correlations --preset tree": (
        "-p depths '[2, 3]' -p L 2 -p n_rules 2 -p n_data 2 -p n_times 3 -p n_draws 2"
    ),
    "hierphase sweep ablations --preset map": (
        '-p trees \'[{"v": 4, "m": 2, "s": 2, "L": 2}]\' -p n_rules 2 -p n_leaves 16'
    ),
    "hierphase run u-turns -p recompute True -p changes \"{'trees': [{'v': 8, 'm': 2, 's': 2, "
    "'L': 4}], 'n_rules': 4}\"": (
        "-p changes_gaussian \"{'n_rules': 2, 'n_chains': 8, 'n_steps': 4}\" "
        "-p changes_depths \"{'n_rules': 2, 'n_chains': 8, 'n_steps': 4}\""
    ),
    "hierphase sweep bp-theory --preset rule-draws": (
        '-p trees \'[{"v": 4, "m": 2, "s": 2, "L": 2}]\' -p n_rules 2 -p n_leaves 16'
    ),
    "hierphase sweep u-turns --preset tree": "-p n_rules 2 -p n_chains 8 -p n_steps 4",
    "hierphase sweep u-turns --preset fashion-mnist": (
        "-p n_per_class 1 -p turns '[1]' -p times '[0.3]' -p num_inference_steps 4"
    ),
    "hierphase sweep universality --preset tree": (
        "-p n_units 1 -p n_data 2 -p ln_snr '[1.4]' -p samplers \"{'flow Heun': [5]}\""
    ),
    "hierphase sweep universality --preset tree -p samplers \"{'DDPM': [50, 200, 800]}\" "
    "-p n_units 2": "-p n_data 2 -p ln_snr '[2.4]'",
    **{
        f"hierphase sweep universality --preset {name}": (
            "-p n_units 1 -p ln_snr '[0.0]' -p samplers \"{'flow Heun': [5]}\""
        )
        for name in ("digits", "flat-digits")
    },
    "hierphase sweep speciation --preset tree": "-p n_rules 2 -p n_data 2 -p noises '[0.5]'",
    "hierphase run ablations -p v 16 -p m 4 -p s 2 -p L 6": "-p n_rules 2",
    "hierphase run ablations -p v 16 -p m 8 -p s 2 -p L 6": "-p n_rules 2",
    "hierphase sweep evidence --preset laws": (
        "-p worlds \"['star']\" -p n_redraws 1 -p n_judged 0 -p n_images 6 -p n_noises 2 "
        "-p n_levels 5 -p n_reversals 40"
    ),
    "hierphase sweep image-correlations --preset fashion-mnist": f"{TINY} -p n_trajectories 2",
    "hierphase sweep imagenet-transition --preset digits": TINY,
    "hierphase sweep imagenet-transition --preset cifar10-8": TINY,
    "hierphase sweep imagenet-transition --preset digits-ddpm-250": TINY,
    "hierphase sweep imagenet-transition --preset flat-digits": "-p n_per_class 1 -p n_times 2",
    FASHION: TINY,
    f"{FASHION} -p n_per_class 20 --executor processes": f"{FASHION} {TINY} --executor processes",
    "hierphase sweep learned-denoisers --preset tree": TINY_DENOISERS,
    "hierphase sweep learned-denoisers --preset unet-m2-L3": (
        "-p sizes \"{'unet-m2-L3': [[]]}\" -p n_data 4 -p n_samples 8 -p num_inference_steps 20"
    ),
    "hierphase sweep probe-curves --preset tree": (
        "-p networks \"['rhm-cnn']\" -p n_blocks 2 -p block 2 -p n_decoding 60"
    ),
    "hierphase sweep probe-curves --preset cnn-32-8-2-4": (
        "-p n_blocks 1 -p block 2 -p noise '[0.5, 0.9]'"
    ),
    **{
        f"hierphase sweep probe-curves --preset {name}-6-6-4-3": (
            "-p networks \"['rhm-cnn-32-8-2-4-0']\" -p n_blocks 1 -p block 2 -p noise '[0.5, 0.9]'"
        )
        for name in ("cnn", "stride-8")
    },
    "hierphase train digits --output runs/digits": "--steps 2",
    "hierphase train rhm-cnn": "--steps 2 --output trained",
    "hierphase train rhm-cnn-6-6-4-3-0": "--steps 2 --output trained",
    "hierphase train rhm-unet-m2-L3-16": "--steps 2 --output trained",
    "hierphase train rhm-unet-256": "--steps 2 --output trained",
    "hierphase measure digits digits": "--limit 10 -p n_times 3 -p num_inference_steps 50",
    "jupytext --to ipynb --output bp-theory.ipynb book/bp-theory.md": "",
    "make book HIERPHASE_RESULTS=$PWD/runs/imagenet/imagenet-transition-imagenet.nc": (
        "make -n book"
    ),
    "make clean": "make -n clean",
    "make lint": "make -n lint",
    "make pdf": "make -n pdf",
    "make reference": "make -n reference",
    "papermill bp-theory.ipynb shallow.ipynb -p L 8 -p output .": "-p n_rules 2 -p n_data 2",
    "pip wheel --no-deps .": "pip wheel --no-deps --no-build-isolation .",
    "python -m pytest tests/notebooks/bp-theory.ipynb": "",
    "python -m pytest tests/rhm/test_model.py": "",
    "python -m pytest tests/rhm/test_model.py -k parse": "",
    "python benchmarks/adm.py": "--small",
    "python benchmarks/bp.py": "--quick",
    "python benchmarks/chapters.py": "random-hierarchy-model --quick",
    "python benchmarks/correlations.py": "--quick",
    "python benchmarks/forward_backward.py": "--quick",
    "python tests/test_rooms.py": "",
}
OWN = "tests/experiments/test_your_model.py"
BY_NBVAL = "tests/notebooks/parameters.yml"  # every chapter is recomputed there, at a small size
#: A command that is not run here -> the file where it is run at a reduced size or with stand-ins,
#: or why nothing runs it.
ELSEWHERE = {
    "apt-get install chromium dataset-fashion-mnist slurm-wlm munge": ".ci/run",
    "conda env create -f environment.yml": "no conda here; tests/test_project.py compares the pins",
    "cp runs/again/*.nc book/results/": "it would change the book",
    "hierphase compare": "a name, not a command",
    "hierphase compare RESULT": "tests/runs/test_comparison.py",
    "hierphase compare runs/again/imagenet-transition-digits.nc": "tests/runs/test_comparison.py",
    "hierphase convert-adm CHECKPOINT DIR": "tests/diffusion/test_guided_diffusion.py",
    "hierphase fetch NAME": "tests/diffusion/test_published.py",
    "hierphase fetch cifar10": "tests/diffusion/test_published.py",
    "hierphase fetch fashion-mnist": "tests/diffusion/test_published.py",
    "hierphase fetch mnist": "tests/diffusion/test_published.py",
    "hierphase measure MODEL IMAGES --dry-run": OWN,
    "hierphase measure MODEL IMAGES --output runs/mine": OWN,
    "hierphase measure MODEL IMAGES -p precision bfloat16 -p compile True -p batch_size 128": OWN,
    "hierphase measure MODEL IMAGES --executor slurm --workers 8 --slurm partition gpu --slurm "
    "gpus_per_node 1": OWN,
    "hierphase run CHAPTER -p NAME VALUE": BY_NBVAL,
    "hierphase run imagenet-transition -p preset imagenet -p stored $PWD/runs/imagenet -p changes "
    '\'{"model": "/data/uncond.pt", "images": "/data/val"}\'': BY_NBVAL,
    "hierphase run learned-denoisers -p recompute True": BY_NBVAL,
    "hierphase run learned-denoisers -p recompute True -p num_inference_steps 25 -p sizes "
    "'{\"unet\": [[64, 512]]}'": BY_NBVAL,
    "hierphase run probe-curves -p recompute True -p n_networks 2 -p n_blocks 4": BY_NBVAL,
    "hierphase sweep": "a name, not a command",
    "hierphase sweep imagenet-transition --preset imagenet --executor slurm --workers 8 --slurm "
    "partition gpu --slurm gpus_per_node 1 --slurm time 120 --shard-size 32": (
        "tests/runs/test_executors.py"
    ),
    "hierphase sweep imagenet-transition --preset imagenet -p model /data/uncond.pt "
    "-p images /data/val --output runs/imagenet": "tests/experiments/test_images.py",
    "hierphase sweep imagenet-transition --preset imagenet -p model FILE -p images DIR": (
        "tests/experiments/test_images.py"
    ),
    "hierphase sweep imagenet-transition --preset ddpm-cifar10-32 -p model /data/ddpm-cifar10-32": (
        "tests/experiments/test_published_models.py"
    ),
    "hierphase sweep imagenet-transition --preset ddpm-celebahq-256 -p model "
    "/data/ddpm-celebahq-256 -p images /data/celebahq -p classifier /data/celebahq-classifier": (
        "tests/experiments/test_published_models.py"
    ),
    "hierphase sweep imagenet-transition --preset ddpm-church-256 -p model /data/ddpm-church-256 "
    "-p images /data/church": "tests/experiments/test_published_models.py",
    "hierphase sweep imagenet-transition --preset ddpm-bedroom-256 -p model "
    "/data/ddpm-bedroom-256 -p images /data/bedroom": "tests/experiments/test_published_models.py",
    "hierphase sweep imagenet-transition --preset imagenet -p model /data/DiT-XL-2-256 -p images "
    "/data/val -p sampler sde-dpm++-2m-karras -p num_inference_steps 100 -p model_flags "
    '\'{"label": "kept"}\'': "tests/experiments/test_conditional_models.py",
    "hierphase sweep imagenet-transition --preset imagenet -p model /data/stable-diffusion -p "
    "images /data/val -p sampler sde-dpm++-2m-karras -p num_inference_steps 100": (
        "tests/experiments/test_conditional_models.py"
    ),
    "hierphase sweep imagenet-transition --preset imagenet -p model /data/128x128_diffusion.pt "
    '-p images /data/val -p model_flags \'{"image_size": 128, "num_heads": 4, "class_cond": true, '
    '"label": "swapped"}\'': "tests/experiments/test_conditional_models.py",
    "hierphase sweep imagenet-transition --preset imagenet -p model /data/512x512_diffusion.pt "
    '-p images /data/val -p model_flags \'{"image_size": 512, "class_cond": true, "label": '
    '"kept"}\'': "tests/experiments/test_conditional_models.py",
    "hierphase train": "a name, not a command",
    "hierphase train NAME": "tests/networks/test_catalogue.py",
    "hierphase train cifar10-32-classifier": "tests/networks/test_catalogue.py",
    "jupyter-book build .": "Makefile",
    "make book": ".ci/run",
    "make test": ".ci/run",
    "pip install": "a name, not a command",
    "pip install .": "tests/test_environment.py",
    "pip install 'hierphase[cluster]'": "Makefile",
    "python -m pytest tests/notebooks": ".ci/run",
    "pip install torchvision": "no torchvision imports beside this torch; "
    "tests/networks/test_torchvision_classifier.py says so when it skips",
    "sbatch book/_static/gpu.sbatch imagenet-transition --preset imagenet -p model "
    "/data/256x256_diffusion_uncond.pt -p images /data/imagenet/val --output runs/imagenet": (
        "tests/runs/test_executors.py"
    ),
    "sbatch --partition gpu --gres gpu:a100:1 ...": "tests/runs/test_executors.py",
    'sbatch --wrap "hierphase run bp-theory -p L 12 --output runs/depth-12"': (
        "tests/runs/test_executors.py"
    ),
}
