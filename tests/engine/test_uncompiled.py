"""A miner does without torch's compiler, and who wants it finds it whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from moesubnet.spec.content import LoadedSpec

LOAD = """
import sys
sys.modules["torchao"] = None  # as without it: it brings the compiler itself
from moesubnet.engine.uncompiled import without_compiler
def load():
    from transformers import LlamaConfig, LlamaForCausalLM
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1,
    )).eval()
model = without_compiler(load)
assert "torch._dynamo" not in sys.modules and "triton" not in sys.modules
import torch
mask = torch.tensor([[0] * 3 + [1] * 5, [1] * 8])
with torch.inference_mode():
    model(torch.ones(2, 8, dtype=torch.long), attention_mask=mask)
double = torch.compile(lambda x: 2 * x, backend="eager")
assert double(torch.ones(2)).tolist() == [2, 2]
from torch._dynamo.eval_frame import OptimizedModule
assert isinstance(torch.compile(model, backend="eager"), OptimizedModule)
"""
# A version of transformers that takes another part of the compiler while it is imported.
GREEDY = """
import sys
sys.modules["torchao"] = None
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
import torch
class Greedy(MetaPathFinder, Loader):
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == "transformers.modeling_utils" else None
    def exec_module(self, module):
        import torch._dynamo.config
        module.found = torch._dynamo.config.recompile_limit
sys.meta_path.insert(0, Greedy())
from moesubnet.engine.uncompiled import without_compiler
def load():
    import transformers.modeling_utils
    return transformers.modeling_utils.found
assert without_compiler(load) > 0
"""
# As a miner does it: whatever the engine's modules import, they import before a model is loaded.
SERVE = """
import sys
sys.modules["torchao"] = None
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.spec.content import load_spec
from pathlib import Path
TransformersEngine(sys.argv[1], load_spec(Path(sys.argv[2])))
assert "torch._dynamo" not in sys.modules and "triton" not in sys.modules
"""


def run(program: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, timeout=300)


def test_a_model_runs_without_the_compiler_which_is_whole_for_who_compiles() -> None:
    run(LOAD)


def test_who_takes_more_of_the_compiler_gets_it() -> None:
    run(GREEDY)


def test_an_engine_serves_without_the_compiler(tiny_model: Path, tiny_spec: LoadedSpec) -> None:
    run(SERVE, str(tiny_model), str(tiny_spec.root))
