import subprocess
import sys
from pathlib import Path


def test_a_sharded_run_saves_restores_and_agrees_with_a_plain_one(tmp_path: Path) -> None:
    """FSDP2 over gloo in two processes: sharded weights, moving average and optimizer state are whole in the file."""
    worker = str(Path(__file__).with_name("sharded_worker.py"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = subprocess.run([*launcher, worker, str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "checkpoint.safetensors").stat().st_size > 0
