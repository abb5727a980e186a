"""Targets and recipes are found from a checkout and from an installed wheel."""

import tomllib

from greenedge.files import package_data


def test_beside_the_package_in_a_checkout(repo):
    assert package_data.data_folder("targets") == repo / "targets"
    assert package_data.data_folder("flows") == repo / "flows"


def test_inside_the_package_once_installed(tmp_path, monkeypatch):
    (tmp_path / "greenedge" / "_data" / "targets").mkdir(parents=True)
    monkeypatch.setattr(package_data, "_PACKAGE", tmp_path / "greenedge")
    assert package_data.data_folder("targets") == tmp_path / "greenedge" / "_data" / "targets"


def test_the_wheel_takes_both_along(repo):
    wheel = tomllib.loads((repo / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {name: f"greenedge/_data/{name}" for name in ("targets", "flows")}
