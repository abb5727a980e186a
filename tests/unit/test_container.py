"""Programs in images: what docker is asked, and what it means when docker says no. The docker here is a script."""

import os
import re
import stat

import pytest

from greenedge.errors import ToolError
from greenedge.tools.container import IMAGES, docker_argv
from greenedge.tools.plan import Command, Plan
from greenedge.tools.run import execute


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """A docker that writes its argv down, makes top.bit, and says and returns what it is told; AMD's tools in a
    folder."""

    def make(says: str = "", status: int = 0, product: str = "top.bit"):
        path = tmp_path / "bin" / "docker"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/argv\necho '{says}'\necho bits > {product}\nexit {status}\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")

    (tmp_path / "Xilinx").mkdir()
    monkeypatch.setenv("GREENEDGE_XILINX", str(tmp_path / "Xilinx"))
    monkeypatch.delenv("LM_LICENSE_FILE", raising=False)
    make()
    return make


PLAN = Plan(
    {"build.tcl": b"exit\n"},
    (Command(("vivado", "-mode", "batch", "-source", "build.tcl"), "vivado.log", "Vivado"),),
    ("top.bit",),
)


def test_a_plans_vendor_tool_runs_in_its_image(docker, tmp_path):
    folder = tmp_path / "4-build"
    execute(PLAN, folder, docker=True)
    work, user = f"{folder}.part", f"{os.getuid()}:{os.getgid()}"
    assert (tmp_path / "argv").read_text().split() == [
        *f"run --rm --init --network none --mount type=bind,source={work},target={work} "
        f"--workdir {work} --user {user} --env HOME=/tmp "
        f"--mount type=bind,source={tmp_path}/Xilinx,target=/tools/Xilinx,readonly "
        "greenedge/finn-vivado:2024.2 vivado".split(),
        "-mode",
        "batch",
        "-source",
        "build.tcl",
    ]
    assert '"vivado": "greenedge/finn-vivado:2024.2 (docker)"' in (folder / "build.json").read_text()


def test_without_it_the_tool_is_looked_for_here(docker, tmp_path):
    with pytest.raises(ToolError) as error:
        execute(PLAN, tmp_path / "4-build")
    assert str(error.value) == "vivado is not on PATH; install it, then run the same command again."


@pytest.mark.parametrize(
    "says, status, product, message",
    [
        (
            "ERROR: [Common 17-345] no licence",
            1,
            "top.bit",
            "Vivado ended with exit status 1: ERROR: [Common 17-345] no licence; the log is {work}/vivado.log.",
        ),
        (
            "No such image: greenedge/finn-vivado",
            125,
            "top.bit",
            "docker has no image greenedge/finn-vivado:2024.2: docker build -t "
            "greenedge/finn-vivado:2024.2 docker/finn-vivado.",
        ),
        (
            "done",
            0,
            "other.bit",
            "top.bit is missing: Vivado ended without an error but did not make it; the log is {work}/vivado.log.",
        ),
    ],
)
def test_what_goes_wrong_in_it(docker, tmp_path, says, status, product, message):
    docker(says, status, product)
    with pytest.raises(ToolError) as error:
        execute(PLAN, tmp_path / "4-build", docker=True)
    assert str(error.value) == message.format(work=f"{tmp_path}/4-build.part")


def test_what_cannot_be_asked(docker, tmp_path, monkeypatch):
    for program, folder, message in (
        ("yosys", tmp_path, "no image has yosys; images have: openFPGALoader, v++, vitis-run, vitis_hls, vivado."),
        (
            "vivado",
            tmp_path / "a,b",
            f"docker cannot mount {tmp_path}/a,b: commas and quotes in a path mean something else to it; "
            "choose another folder.",
        ),
    ):
        with pytest.raises(ToolError) as error:
            docker_argv(program, (), folder)
        assert str(error.value) == message
    monkeypatch.setenv("GREENEDGE_XILINX", "/nowhere")
    with pytest.raises(ToolError) as error:
        docker_argv("vivado", (), tmp_path)
    assert (
        str(error.value)
        == "AMD's tools are not in /nowhere; install them there, or say where they are in GREENEDGE_XILINX."
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError) as error:
        execute(PLAN, tmp_path / "4-build", docker=True)
    assert str(error.value) == "docker is not on PATH; install it, or leave --docker out."


def test_every_image_has_a_dockerfile_with_its_versions(repo):
    for image in set(IMAGES.values()):
        text = (repo / image.folder / "Dockerfile").read_text()
        assert f"docker build -t {image.tag} {image.folder}" in text
        assert re.search(r"^FROM \w+:[\d.]+(-slim)?$", text, re.MULTILINE) and image.tag.split(":")[1] in text
        for name in re.findall(r"pip install [^&\\\n]*", text):
            assert all("==" in word for word in name.split()[2:] if not word.startswith("-")), name
        assert f"`{image.tag}`" in (repo / "docker" / "README.md").read_text()
