import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from kdep.models.backbones.backbone import build_backbone
from kdep.models.checkpoints.checkpoint import write_student
from kdep.models.load import load
from kdep.models.weights import open_checkpoint


@torch.no_grad()
def test_a_loaded_student_prepares_images_and_gives_its_own_features(tmp_path):
    checkpoint = open_checkpoint("random:test_resnet")
    write_student(checkpoint, tmp_path / "student.pth")
    student = load(tmp_path / "student.pth")
    pixels = torch.randint(0, 256, (3, 160, 200), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = student.preprocess(functional.to_pil_image(pixels))
    assert torch.allclose(found, pixels[:, :, 20:180].float() / 255)  # the centre, at the network's own size
    assert torch.equal(student(found[None]), build_backbone(checkpoint).eval()(found[None]))
    assert student.preprocess(Image.new("L", (40, 90))).shape == (3, 160, 160)
    grey = Image.fromarray(np.full((200, 200), 32768, np.uint16))  # half of white, as training decodes it
    assert float(student.preprocess(grey).mean()) == pytest.approx(0.5, abs=0.01)
    assert (student.size, student.training) == (160, False)
    assert student.mean.flatten().tolist() == torch.tensor(checkpoint.mean).tolist()
