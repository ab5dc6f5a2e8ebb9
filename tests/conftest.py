"""Shared by all tests: deterministic seeds, one thread a test process, no network."""

import gc
import os

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # of other processes, which the tests start
os.environ["MKL_CBWR"] = "AUTO,STRICT"  # read at the first product: the same bits wherever memory lies
torch.set_num_threads(1)  # small networks: two threads on a busy machine take many times longer than one


@pytest.fixture(scope="module", autouse=True)
def _frozen():
    """Libraries and tests stay: a run that lets go of its network need not look through them for garbage each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def demo():
    """The committed demo bundle."""
    from dreamfactory.pipelines.bundle import load_bundle

    return load_bundle("demo")
