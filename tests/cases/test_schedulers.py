"""Stock schedulers that are wrong here: refused, in one line that says why.

A further one is one line: scheduler, options of the call, what the message has to say.
"""

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DDPMWuerstchenScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    IPNDMScheduler,
    LCMScheduler,
    LTXEulerAncestralRFScheduler,
    PNDMScheduler,
    RePaintScheduler,
    SASolverScheduler,
    ScoreSdeVeScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from linear_response import GaussianDenoiser

from hierphase.diffusion.forward_backward import ForwardBackwardPipeline

FREE = {"clip_sample": False}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
PRK = {"skip_prk_steps": True}

#: Wrong in their steps: found by a trial.
UNTRUE = [
    (DDIMScheduler(timestep_spacing="linspace"), {"num_inference_steps": 600}, "back: at step"),
    (DDIMScheduler(timestep_spacing="linspace"), {"num_inference_steps": 250}, "back: at step"),
    (DDIMScheduler(timestep_spacing="trailing"), {"num_inference_steps": 600}, "back: at step"),
    (DDIMScheduler(timestep_spacing="linspace"), {"eta": 1.0}, "back: at step"),
    (CogVideoXDDIMScheduler(timestep_spacing="linspace"), {}, "back: at step"),
    (PNDMScheduler(timestep_spacing="linspace", **PRK), {}, "back: at step"),
    (PNDMScheduler(prediction_type="v_prediction", **PRK), {}, "back: at step"),
    (
        DDPMScheduler(variance_type="fixed_large", timestep_spacing="trailing"),
        {"num_inference_steps": 10},
        "its end .* noise has standard deviation 0.321 instead of 0",
    ),
    (DDPMScheduler(variance_type="fixed_large", steps_offset=1), {}, "deviation 0.0148 instead"),
    (DDPMScheduler(variance_type="fixed_large_log"), {}, "off by nan"),
    (DDPMScheduler(), {"x0": torch.full((2, 3), 3.0)}, "x_0 = 3 back.*clip_sample=False"),
    (DDIMScheduler(), {"x0": torch.full((2, 3), -1.5)}, "x_0 = 1.5 back.*clip_sample=False"),
    (
        DPMSolverMultistepScheduler(thresholding=True, sample_max_value=1.0),
        {"x0": torch.full((2, 3), 3.0)},
        "x_0 = 3 back",
    ),
    (DEISMultistepScheduler(**FLOW), {}, "its end .* deviation 0.02"),
    (DPMSolverMultistepInverseScheduler(), {}, "back: at"),
    (
        DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing"),
        {"ln_snr": [-torch.inf]},
        "off by nan",
    ),
    (EulerDiscreteScheduler(interpolation_type="log_linear"), {}, "tells another level"),
    (SASolverScheduler(**FLOW), {}, "tells another level"),
]
#: Refused by what they are.
UNFIT = [
    (DPMSolverMultistepScheduler(solver_order=3, **SDE), {}, "does not converge as an SDE solver"),
    (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), {}, "stochastic_sampling"),
    (FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), {}, "`mu` must be passed"),
    (PNDMScheduler(), {}, "needs skip_prk_steps=True"),
    (LCMScheduler(), {}, "is for distilled networks"),
    (TCDScheduler(), {}, "is for distilled networks"),
    (FlowMapEulerDiscreteScheduler(), {}, "is for distilled networks or flow maps"),
    (CogVideoXDPMScheduler(), {}, "needs timestep_back, sample in its steps"),
    (DDIMInverseScheduler(), {}, "neither add_noise nor scale_noise"),
    (IPNDMScheduler(), {}, "neither add_noise nor scale_noise"),
    (LTXEulerAncestralRFScheduler(), {}, "neither add_noise nor scale_noise"),
    (RePaintScheduler(), {}, "RePaintScheduler"),
    (ScoreSdeVeScheduler(), {}, "scheduler must be one of diffusers with a step"),
    (DDPMWuerstchenScheduler(), {}, "must have alphas_cumprod"),
    (dict(), {}, "scheduler must be one of diffusers with a step.., got dict; take DPMSolver"),
]  # fmt: skip
#: Right, but not for this call.
UNABLE = [
    (DDIMScheduler(**FREE), {"num_inference_steps": 501, "ln_snr": [-torch.inf]}, "no pure noise"),
    (
        DDIMScheduler(**FREE),
        {"num_inference_steps": 501, "timesteps": [1000], "ln_snr": None},
        "no pure noise",
    ),
    (UniPCMultistepScheduler(), {"eta": 1.0}, "option of UniPCMultistepScheduler.step 'eta'"),
    (DDIMScheduler(**FREE), {"etta": 1.0}, "'etta'.*use_clipped_model_output"),
    (EulerDiscreteScheduler(), {"s_churn": 1.0}, "'s_churn'"),
    (DDPMScheduler(**FREE), {"timesteps": [5]}, "give timesteps or ln_snr, got .5. and .0.0."),
    (DDPMScheduler(**FREE), {"ln_snr": None}, "give timesteps or ln_snr, got None and None"),
    (DDPMScheduler(**FREE), {"ln_snr": "5"}, "ln_snr must be a number, -inf to inf, got '5'"),
    (DDPMScheduler(**FREE), {"ln_snr": [float("nan")]}, "-inf to inf, got .nan."),
    (DDPMScheduler(**FREE), {"ln_snr": [True]}, "ln_snr must be a number, .* got .True."),
    (DDPMScheduler(**FREE), {"start_below": True}, "start_below goes with timesteps"),
    (
        EulerDiscreteScheduler(),
        {"ln_snr": None, "timesteps": [500], "start_below": True},
        "start_below is for variance-preserving schedulers",
    ),
]


def run(scheduler, options, model=None):
    call = {"x0": torch.zeros(2, 3), "num_inference_steps": 50, "ln_snr": [0.0]} | options
    if model is None and hasattr(scheduler, "config"):
        try:
            model = GaussianDenoiser(scheduler, torch.zeros(3), torch.ones(3))
        except ValueError:
            model = torch.nn.Identity()
    return ForwardBackwardPipeline(model, scheduler)(**call)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("scheduler", "options", "message"), UNTRUE + UNFIT + UNABLE)
def test_is_refused_in_words(scheduler, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        run(scheduler, options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("scheduler", "n", "change"),
    [
        (DDPMScheduler(**FREE), 250, "-5.5%"),
        (DDPMScheduler(**FREE), 50, "-20.7%"),
        (DDPMScheduler(), 50, "-20.7%"),  # cropping is for data beyond +-1, not for these
        (EulerDiscreteScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"), 50, "-10"),
    ],
)
def test_too_few_steps_are_a_warning_with_the_figure(scheduler, n, change):
    with pytest.warns(UserWarning, match=f"with {n} steps changes the variance .* by {change}"):
        run(scheduler, {"num_inference_steps": n})


@pytest.mark.filterwarnings("error:.*variance")
@pytest.mark.parametrize(
    ("scheduler", "n"),
    [
        (DPMSolverMultistepScheduler(use_karras_sigmas=True, **SDE), 100),
        (DPMSolverMultistepScheduler(), 50),
        (UniPCMultistepScheduler(), 50),
        (DDPMScheduler(**FREE), 333),
        (DDPMScheduler(variance_type="learned_range", **FREE), 50),  # its variance is the network's
    ],
)
def test_enough_steps_are_no_warning(scheduler, n):
    class Twice(GaussianDenoiser):
        def __call__(self, x_t, t):
            output = super().__call__(x_t, t)
            output.sample = torch.cat([output.sample, 0 * output.sample], 1)
            return output

    run(scheduler, {"num_inference_steps": n}, Twice(scheduler, torch.zeros(3), torch.ones(3)))


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_finite_stops_the_run():
    class Broken(GaussianDenoiser):
        def __call__(self, x_t, t):
            output = super().__call__(x_t, t)
            if t < 300:
                output.sample[1] = torch.inf
            return output

    scheduler = DDPMScheduler(**FREE)
    broken = Broken(scheduler, torch.zeros(3), torch.ones(3))
    message = "model's output is not finite for image 1 of 2 at t = 280 in torch.float32; likely"
    with pytest.raises(ValueError, match=message):
        run(scheduler, {"ln_snr": [0.0, -5.0], "exact_bits": False}, broken)
