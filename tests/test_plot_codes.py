"""Figures of codes show the numbers they were given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from energynet import plot


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mosaic_has_every_atom_in_its_place_and_on_its_own_scale() -> None:
    atoms = torch.randn(7, 3, 4, generator=seeded(0)) * torch.arange(1, 8)[:, None, None]
    figure = plot.mosaic(atoms, "a title", columns=3)
    (axes,) = figure.axes
    assert figure.get_suptitle() == "a title"
    shown: Any = axes.images[0].get_array()
    assert shown.shape == (3 * 4 - 1, 3 * 5 - 1)
    for number, atom in enumerate(atoms):
        row, column = divmod(number, 3)
        found = shown[row * 4 : row * 4 + 3, column * 5 : column * 5 + 4]
        assert np.allclose(found, atom / atom.abs().max())
    assert np.isnan(np.ma.filled(shown[8:, 5:], np.nan)).all()  # two places are empty
    assert axes.images[0].get_clim() == (-1, 1)


def test_mosaic_with_labels() -> None:
    atoms = torch.randn(5, 4, 4, generator=seeded(0))
    figure = plot.mosaic(atoms, "title", labels=[f"{n} %" for n in range(5)])
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in drawn] == [f"{n} %" for n in range(5)]
    for axes, atom in zip(drawn, atoms, strict=True):
        assert np.allclose(np.asarray(axes.images[0].get_array()), atom / atom.abs().max())
    plot.mosaic(torch.zeros(1, 2, 2), "an atom that is nothing")
    with pytest.raises(ValueError, match="a label for each of 5"):
        plot.mosaic(atoms, "title", labels=["one"])
    with pytest.raises(ValueError, match="count, height, width"):
        plot.mosaic(atoms[0], "title")


def test_code_histogram_is_a_density_and_tells_the_zeros() -> None:
    codes = torch.randn(200, 50, generator=seeded(1))
    sparse = codes * (torch.rand(200, 50, generator=seeded(2)) < 0.25)
    figure = plot.code_histogram({"dense": codes, "sparse": sparse}, "title")
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    zero = float((sparse == 0).double().mean())
    assert labels == ["dense: 0.0% exactly zero", f"sparse: {zero:.1%} exactly zero"]
    for patch, mass in zip(axes.patches, (1.0, 1 - zero), strict=True):
        heights, edges, _ = patch.get_data()  # type: ignore[attr-defined]
        assert np.nansum(heights * np.diff(edges)) == pytest.approx(mass, abs=2e-3)
        middle = np.nanmax(heights)
        assert middle == pytest.approx(mass / np.sqrt(2 * np.pi), rel=0.15)
    assert axes.get_yscale() == "log"
    plot.code_histogram({"nothing": torch.zeros(3)}, "title")


def test_reconstruction_tells_the_variance_explained() -> None:
    data = torch.randn(4, 5, 5, generator=seeded(3))
    figure = plot.reconstruction(data, {"half": 0.5 * data, "all": data.clone()}, "title")
    assert len(figure.axes) == 12
    assert [axes.get_ylabel() for axes in figure.axes[::4]] == ["data", "half", "all"]
    assert [axes.get_xlabel() for axes in figure.axes] == [""] * 4 + ["75%"] * 4 + ["100%"] * 4
    for axes, image in zip(figure.axes[4:8], data, strict=True):
        assert np.allclose(np.asarray(axes.images[0].get_array()), 0.5 * image)
        assert axes.images[0].get_clim() == pytest.approx(
            (-float(image.abs().max()), float(image.abs().max()))
        )


def test_posterior_shows_the_chain_and_its_law() -> None:
    chain = torch.randn(1000, 4, generator=seeded(4), dtype=torch.float64)
    chain = chain * (torch.rand(1000, 4, generator=seeded(5)) < 0.6)
    grid = torch.linspace(-3, 3, 50)
    figure = plot.posterior(chain, "title", law=(grid, grid.square()), zero=0.4, shown=100)
    left, right = figure.axes
    assert len(left.lines) == 3
    for number, line in enumerate(left.lines):
        steps, values = line.get_data()
        assert list(steps) == list(range(900, 1000))
        assert np.allclose(values, chain[-100:, number])
    assert np.allclose(right.lines[0].get_xdata(), grid.square())
    assert np.allclose(right.lines[0].get_ydata(), grid)
    heights, edges, _ = right.patches[0].get_data()  # type: ignore[attr-defined]
    zero = float((chain == 0).double().mean())
    assert (heights * np.diff(edges)).sum() == pytest.approx(1 - zero, abs=1e-9)
    told, exact = right.texts[0].get_text().removeprefix("zero: ").split(", ")
    assert float(told) == pytest.approx(zero, abs=5.1e-4)
    assert exact == "exact 0.400"
    _, plain = plot.posterior(chain + 10, "title").axes
    assert not plain.texts
