"""Boards described by a folder: what is read of them, and what of it means that times are no result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mvp_deploy.base import board, energy
from mvp_deploy.base.board import State


def describe(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def pi(tmp_path: Path) -> Path:
    core = "sys__devices__system__cpu__cpu0__cpufreq__"
    files = {
        "proc__device-tree__model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc__device-tree__compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
        "proc__meminfo": "MemTotal:        8256000 kB\n",
        "etc__os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        core + "scaling_governor": "ondemand\n",
        core + "scaling_cur_freq": "1500000\n",
        core + "cpuinfo_max_freq": "2400000\n",
        "sys__class__thermal__thermal_zone0__type": "cpu-thermal\n",
        "sys__class__thermal__thermal_zone0__temp": "61200\n",
        "tools__vcgencmd": "throttled=0x0\n",
    }
    return describe(tmp_path, **files)


def test_a_pi_is_told(pi: Path) -> None:
    found, state = board.board(pi), board.state(pi)
    assert (found.model, found.soc) == ("Raspberry Pi 5 Model B Rev 1.0", "brcm,bcm2712")
    assert found.memory == 8256000 * 1024
    assert state.governors == ("ondemand",)
    assert (state.clocks_mhz, state.highest_mhz) == ((1500.0,), 2400.0)
    assert state.temperatures == {"cpu-thermal": 61.2}
    assert state.power_mode is None


def test_what_lowers_the_clocks_is_seen_now_and_since_the_first_look(pi: Path) -> None:
    quiet = board.state(pi)
    assert board.throttled(quiet, quiet) == ()
    describe(pi, tools__vcgencmd="throttled=0x50005\n")  # under-voltage and throttled, now and since the boot
    assert set(board.throttled(quiet, board.state(pi))) >= {"under-voltage", "throttled"}
    describe(pi, tools__vcgencmd="throttled=0x40000\n")  # it was throttled, and is over
    assert board.throttled(quiet, board.state(pi)) == ("throttled, since the boot",)
    assert board.throttled(board.state(pi), board.state(pi)) == ()  # before the first look: not while it was timed


def test_a_cooling_device_at_work_and_a_pcs_counter_are_throttling(tmp_path: Path) -> None:
    count = "sys__devices__system__cpu__cpu0__thermal_throttle__core_throttle_count"
    before = board.state(describe(tmp_path, **{count: "3\n"}))
    cooling = "sys__class__thermal__cooling_device0__"
    describe(tmp_path, **{count: "5\n", cooling + "type": "thermal-cpufreq-0\n", cooling + "cur_state": "2\n"})
    assert board.throttled(before, board.state(tmp_path)) == (
        "thermal limit of the CPU (core)",
        "cooling by thermal-cpufreq-0",
    )


def test_a_jetson_tells_its_power_mode_and_whether_its_clocks_are_fixed(tmp_path: Path) -> None:
    core = "sys__devices__system__cpu__cpu0__cpufreq__"
    files = {"etc__nv_tegra_release": "# R36 (release), REVISION: 4.0", "tools__nvpmodel": "NV Power Mode: MAXN\n0\n"}
    files |= {core + "scaling_min_freq": "2201600\n", core + "scaling_max_freq": "2201600\n"}
    state = board.state(describe(tmp_path, **files))
    assert (state.power_mode, state.jetson_clocks) == ("MAXN", True)
    assert board.board(tmp_path).drivers == {"L4T": "R36 (release), REVISION: 4.0"}


def test_what_differs_from_what_is_asked_comes_with_its_cure() -> None:
    state = State(governors=("ondemand",), power_mode="15W", jetson_clocks=False)
    assert board.differs({}, state) == []
    assert board.differs({"governor": "ondemand", "power_mode": "15W", "jetson_clocks": False}, state) == []
    wrong = board.differs({"governor": "performance", "power_mode": "MAXN", "jetson_clocks": True}, state)
    assert len(wrong) == 3
    assert "sudo tee" in wrong[0]
    assert "sudo jetson_clocks" in wrong[2]
    assert board.differs({"power_mode": "MAXN"}, replace(state, power_mode=None))


def test_nothing_is_read_of_a_system_that_tells_nothing(tmp_path: Path) -> None:
    assert board.state(tmp_path) == State()
    assert board.board(tmp_path).memory is None
    assert not energy.is_told(tmp_path)
    with energy.metered(tmp_path) as joules:
        pass
    assert joules == []


def test_energy_is_a_counters_growth_over_its_end(tmp_path: Path) -> None:
    zone = "sys__class__powercap__intel-rapl:0__"
    describe(tmp_path, **{zone + "energy_uj": "9000000\n", zone + "max_energy_range_uj": "10000000\n"})
    describe(tmp_path, **{"sys__class__powercap__intel-rapl:0:0__energy_uj": "5\n"})  # a part of it
    with energy.metered(tmp_path) as joules:
        describe(tmp_path, **{zone + "energy_uj": "1500000\n"})
    assert joules == pytest.approx([2.5])


def test_power_sensors_count_the_boards_input_alone(tmp_path: Path) -> None:
    chip = "sys__class__hwmon__hwmon1__"
    files = {"name": "ina3221\n", "in1_label": "VDD_IN\n", "in1_input": "19000\n", "curr1_input": "500\n"}
    files |= {"in2_label": "VDD_CPU\n", "in2_input": "19000\n", "curr2_input": "100\n"}
    describe(tmp_path, **{chip + name: text for name, text in files.items()})
    assert energy.is_told(tmp_path)
    assert energy._watts(tmp_path) == pytest.approx(9.5)
