"""At no time is there no checkpoint."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from callbacks.checkpoint import AdapterCheckpoint
from mappa.checkpoint import last_checkpoint


class Killed(BaseException):
    pass


def parts(content: str) -> tuple[SimpleNamespace, SimpleNamespace]:
    """A trainer and a module that save `content`."""
    trainer = SimpleNamespace(
        is_global_zero=True,
        callbacks=[],
        datamodule=SimpleNamespace(epoch=1),
        max_epochs=3,
        should_stop=True,
        save_checkpoint=lambda path: path.write_text(content),
        strategy=SimpleNamespace(barrier=lambda name: None),
    )
    return trainer, SimpleNamespace(adapters=SimpleNamespace(save=lambda folder, write: folder.mkdir()))


@pytest.mark.parametrize("moment", [0, 1])
def test_a_kill_while_a_checkpoint_is_replaced_leaves_one(moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The judge stops a run: its newest checkpoint is written again, and the process dies before or after a rename."""
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("{}")
    callback = AdapterCheckpoint(str(tmp_path / "checkpoints"))
    callback.on_train_epoch_end(*parts("old"))
    renames, rename = [], Path.rename

    def dying(path: Path, target: Path) -> Path:
        if len(renames) == moment:
            raise Killed
        renames.append(target)
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        with pytest.raises(Killed):
            callback.on_train_epoch_end(*parts("new"))
    assert (last_checkpoint(tmp_path) / "trainer.ckpt").read_text() == "old"
    callback.on_train_epoch_end(*parts("newer"))
    assert (last_checkpoint(tmp_path) / "trainer.ckpt").read_text() == "newer"
    assert last_checkpoint(tmp_path).name == "epoch=1"
