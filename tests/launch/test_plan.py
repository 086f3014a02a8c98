"""What a plan says is what a run does."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from gen_jax.errors import ConfigError
from gen_jax.launch.build.experiment import build
from gen_jax.launch.build.parallel import build_engine, build_mesh
from gen_jax.launch.cli.main import main
from gen_jax.launch.config.files import load_config
from gen_jax.launch.planning import plan as planning
from gen_jax.launch.planning.cost import Collective, collectives, count_flops, wire_bytes
from gen_jax.launch.planning.hardware import HARDWARE, choose_hardware, parse_size
from gen_jax.launch.planning.plan import make_plan, smaller_changes
from gen_jax.launch.planning.topology import open_topology
from gen_jax.train.sharding import make_mesh

DATA = P("data")
TINY = "configs/ddpm_digits.py:tiny"


def flops(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return count_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def xla_flops(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


class TestFlops:
    def test_matrix_products(self):
        assert flops(jnp.dot, (3, 4), (4, 5)) == 2 * 3 * 4 * 5
        assert flops(lambda x, y: jnp.einsum("bij,bjk->bik", x, y), (2, 3, 4), (2, 4, 5)) == 240

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("padding", ["SAME", "VALID"])
    def test_convolutions_and_their_gradients_as_xla_counts_them(self, stride, padding):
        def conv(x, w):
            numbers = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(
                x, w, (stride, stride), padding, dimension_numbers=numbers
            )

        def grads(x, w):
            return jax.vjp(conv, x, w)[1](jnp.ones(jax.eval_shape(conv, x, w).shape))

        shapes = ((2, 9, 9, 3), (3, 3, 3, 5))
        assert flops(conv, *shapes) == pytest.approx(xla_flops(conv, *shapes), rel=1e-3)
        # The traced gradient has the forward pass in it too.
        assert flops(grads, *shapes) == pytest.approx(3 * flops(conv, *shapes), rel=1e-6)

    def test_groups_of_channels_and_of_examples(self):
        def grouped(x, w, **groups):
            numbers = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(
                x, w, (1, 1), "VALID", dimension_numbers=numbers, **groups
            )

        depthwise = lambda x, w: grouped(x, w, feature_group_count=4)  # noqa: E731
        assert flops(depthwise, (2, 5, 5, 4), (3, 3, 1, 4)) == 2 * 9 * 9 * 4 * 2
        parts = lambda x, w: grouped(x, w, batch_group_count=4)  # noqa: E731
        assert flops(parts, (8, 1, 1, 3), (1, 1, 3, 4)) == 48

    def test_loops_count_as_often_as_they_run_and_branches_once(self):
        def loop(x):
            return jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=7)[0]

        def branch(x):
            return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

        assert flops(loop, (4, 4)) == 7 * 2 * 64
        assert flops(branch, (4, 4)) == 2 * 2 * 64

    def test_rematerialization_counts_what_it_computes_again(self):
        def f(x):
            return jnp.sum(jax.checkpoint(lambda x: jnp.sin(x @ x))(x))

        assert flops(jax.grad(f), (4, 4)) == 4 * 2 * 64  # forward, again, and two gradients

    def test_a_device_s_part_counts_for_all_devices(self):
        mesh = make_mesh()
        f = jax.shard_map(
            lambda x, w: x @ w, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data")
        )
        assert flops(f, (16, 4), (4, 4)) == 2 * 16 * 4 * 4


class TestCollectives:
    def compiled(self, function, spec=DATA):
        mesh = make_mesh(2, 4)
        mapped = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=P(), check_vma=False)
        x = jax.ShapeDtypeStruct((8, 64), jnp.float32)
        return collectives(jax.jit(mapped).lower(x).compile().as_text(), [0] * 4 + [1] * 4)

    def test_a_sum_over_devices(self):
        (one,) = self.compiled(lambda x: jax.lax.psum(x, "fsdp"))
        assert one == Collective("all-reduce", 1, 4 * 64 * 4, 4, False)
        (one,) = self.compiled(lambda x: jax.lax.psum(x, "data"))
        assert one == Collective("all-reduce", 1, 4 * 64 * 4, 2, True)

    def test_gathering_and_scattering(self):
        spec = P(("data", "fsdp"))
        (one,) = self.compiled(lambda x: jax.lax.all_gather(x, "fsdp"), spec)
        assert one == Collective("all-gather", 1, 4 * 64 * 4, 4, False)
        (one,) = self.compiled(
            lambda x: jax.lax.psum_scatter(x, "fsdp", scatter_dimension=1, tiled=True)
        )
        assert one == Collective("reduce-scatter", 1, 4 * 64 * 4, 4, False)

    def test_in_a_loop_it_counts_as_often_as_it_runs(self):
        def loop(x):
            return jax.lax.fori_loop(0, 5, lambda _, y: jnp.sin(jax.lax.psum(y, "fsdp")), x)

        assert sum(one.times for one in self.compiled(loop)) == 5

    def test_a_loop_whose_length_only_its_condition_tells(self):
        text = """%cond (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(24)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a = f32[8]{0} all-reduce(%x), replica_groups={}
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]) while(%t), condition=%cond, body=%body
}
"""
        assert collectives(text, [0] * 8) == [Collective("all-reduce", 24, 24 * 32, 8, False)]

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            (
                "%a = f32[8]{0} all-reduce(%x), replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%s",
                Collective("all-reduce", 1, 32, 4, True),
            ),
            (
                "%a = (f32[8]{0}, f32[32]{0}) all-gather-start(%x), replica_groups={{0,1,2,3},"
                "{4,5,6,7}}, dimensions={0}",
                Collective("all-gather", 1, 128, 4, False),
            ),
            (
                "%a = bf16[4]{0:T(128)} all-gather(%x), replica_groups=mesh['a'=2,'b'=4] {'b'}",
                Collective("all-gather", 1, 8, 4, False),
            ),
            (
                "%a = f32[8]{0} all-gather(%x), replica_groups=mesh['a'=4,'b'=2], "
                "device_ids=([2,4]T(1,0)) {'a'}, dimensions={0}",
                Collective("all-gather", 1, 32, 4, False),
            ),
            (
                "%a = f32[8]{0} all-gather(%x), replica_groups=mesh['a'=2,'b'=4], "
                "device_ids=(0,4,1,5,2,6,3,7) {'a','b':(1)2}, dimensions={0}",
                Collective("all-gather", 1, 32, 4, False),
            ),
            (
                "%a = f32[8]{0} all-gather(%x), replica_groups=mesh['a'=2,'b'=4], "
                "device_ids=(0,4,1,5,2,6,3,7) {'b':(2)2}, dimensions={0}",
                Collective("all-gather", 1, 32, 2, True),
            ),
            (
                "%a = f32[8]{0} all-gather(%x), replica_groups=mesh['a'=8] {'a':(4)2}",
                Collective("all-gather", 1, 32, 2, False),
            ),
            (
                "%a = f32[2]{0} all-gather(%x), replica_groups=mesh['a'=2,'b'=4] {'a'}",
                Collective("all-gather", 1, 8, 2, True),
            ),
            (
                "%a = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%x), "
                "source_target_pairs={{0,1},{1,0}}",
                Collective("collective-permute", 1, 16, 2, False),
            ),
            (
                "%a = f32[2]{0} all-reduce(%x), replica_groups={}",
                Collective("all-reduce", 1, 8, 8, True),
            ),
        ],
    )
    def test_how_compilers_write_it(self, line, expected):
        text = f"ENTRY %main (x: f32[8]) -> f32[8] {{\n  {line}\n}}\n"
        assert collectives(text, [0] * 4 + [1] * 4) == [expected]

    def test_one_collective_in_three_pieces_is_one(self):
        line = "  %a = f32[8]{0} all-gather(%x), channel_id=3, replica_groups={}\n"
        text = f"%f (x: f32[8]) -> f32[8] {{\n{line}}}\n"
        text += (
            f"ENTRY %main (x: f32[8]) -> f32[8] {{\n{line}  %b = f32[8] fusion(), calls=%f\n}}\n"
        )
        assert [one.times for one in collectives(text, [0] * 8)] == [1]

    def test_ring_algorithms(self):
        def sent(kind):
            return wire_bytes(Collective(kind, 1, 800.0, 8, False))

        assert sent("all-reduce") == 1400
        assert sent("all-gather") == sent("reduce-scatter") == 700
        assert sent("collective-permute") == 800


@pytest.fixture(
    scope="module", params=[{}, {"mesh.fsdp": 4}, {"train.engine": "shard_map"}], ids=str
)
def both(request):
    """A plan for eight devices, and the same job really run on eight devices."""
    overrides = [f"{name}={value}" for name, value in request.param.items()]
    config = load_config(TINY, [*overrides, "mesh.min_size=64", "data.batch_size=16"])
    plan = make_plan(config, open_topology("cpu:8"), HARDWARE["h100"])
    experiment = build(config)
    engine = build_engine(config, experiment, build_mesh(config))
    host = {"image": np.zeros((16, 8, 8, 1), np.uint8)}
    batch, key = engine.put(host), engine.key(0)
    state = engine.init(key, batch)
    compiled = engine.compile(state, experiment.frozen, batch, key)
    state, _ = compiled(state, experiment.frozen, batch, key)
    return plan, compiled, state, batch


def on_first_device(tree):
    device = jax.devices()[0]
    shards = [s for x in jax.tree.leaves(tree) for s in x.addressable_shards if s.device == device]
    return sum(shard.data.nbytes for shard in shards)


@pytest.mark.nightly
def test_the_plan_s_bytes_are_those_of_a_run(both):
    plan, compiled, state, batch = both
    assert plan.memory["weights"] == on_first_device(state.params)
    assert plan.memory["averaged_weights"] == on_first_device(state.ema_params)
    assert plan.memory["optimizer"] == on_first_device(state.opt_state)
    assert plan.memory["batch"] == on_first_device(batch)
    analysis = compiled.memory_analysis()
    assert plan.memory["activations"] == pytest.approx(analysis.temp_size_in_bytes, rel=0.02)
    held = on_first_device(state) + on_first_device(batch)
    assert held + analysis.temp_size_in_bytes == pytest.approx(plan.memory["peak"], rel=0.02)


@pytest.mark.nightly
def test_the_plan_s_arithmetic_and_communication_are_those_of_a_run(both):
    """XLA also counts what is not a matrix product: a fifth, in a network this small."""
    plan, compiled, _, _ = both
    counted = compiled.cost_analysis()["flops"]
    assert plan.flops_per_device == plan.flops_per_step / 8
    assert 0.6 * counted < plan.flops_per_device < 1.05 * counted
    found = collectives(compiled.as_text(), [0] * 8)
    assert sum(map(wire_bytes, found)) == pytest.approx(plan.wire_bytes, rel=0.02)
    # Every gradient is reduced once: as many bytes as there are parameters, or parts of them.
    reduced = sum(one["bytes"] for one in plan.collectives if one["kind"] != "all-gather")
    assert 0.98 < reduced / (4 * plan.parameters) < (1.02 if plan.mesh.get("fsdp", 1) == 1 else 1.4)


@pytest.mark.nightly
def test_the_estimate_is_what_its_formula_says(both):
    plan = both[0]
    assert plan.seconds["compute"] == plan.flops_per_device / 989e12
    assert plan.seconds["communication"] == pytest.approx(plan.wire_bytes / 450e9)
    assert plan.seconds["step_serial"] == sum(
        plan.seconds[name] for name in ("compute", "communication")
    )


def test_splitting_the_state_saves_what_it_should(tmp_path):
    shapes = {}
    for fsdp in (1, 8):
        config = load_config(TINY, [f"mesh.fsdp={fsdp}", "mesh.min_size=1", "data.batch_size=16"])
        shapes[fsdp] = planning._state_memory(
            *planning._arguments(config, open_topology("cpu:8"))[2][:3]
        )
    for name in ("weights", "averaged_weights", "optimizer"):
        assert shapes[1][name] / 8 <= shapes[8][name] < shapes[1][name] / 6


@pytest.mark.nightly
def test_the_smallest_change_that_fits_is_found_by_trying(capsys):
    base = ["plan", "--config", TINY, "--topology", "cpu:8", "--config.data.batch_size=64"]
    base += ["--config.mesh.min_size=1"]
    assert main([*base, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["fits"]
    limit = int(whole["memory"]["peak"] * 0.8)
    assert main([*base, "--json", f"--memory={limit}B"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert not result["fits"]
    assert result["change"]["peak"] <= limit
    fields = result["change"]["fields"]
    config = load_config(TINY, ["data.batch_size=64", "mesh.min_size=1"])
    order = list(smaller_changes(config, 8))
    assert fields in order
    for smaller in order[: order.index(fields)]:
        tried = planning._changed(config, smaller)
        assert make_plan(tried, open_topology("cpu:8")).memory["peak"] > limit
    assert main([*base, "--memory=1KiB"]) == 0
    out = capsys.readouterr().out
    assert "does not fit into 1.00 KiB" in out
    assert "the state alone takes" in out
    assert "nothing that was tried fits" in out


def test_changes_come_smallest_first_and_are_possible():
    config = load_config(TINY, ["data.batch_size=64"])
    changes = list(smaller_changes(config, 8))
    assert {"mesh.data": -1, "mesh.fsdp": 2} in changes[:3]
    assert {"train.microbatches": 2} in changes[:3]
    assert {"model.remat": "matmuls"} in changes[:3]
    for change in changes:
        fsdp, parts = change.get("mesh.fsdp", 1), change.get("train.microbatches", 1)
        assert 8 % fsdp == 0
        assert 64 % (8 * parts) == 0


def test_changes_start_from_what_the_mesh_really_is():
    config = load_config(TINY, ["data.batch_size=64", "mesh.data=1", "mesh.fsdp=-1"])
    changes = list(smaller_changes(config, 8))
    assert changes
    assert not any("mesh.fsdp" in change for change in changes), "it is split over all already"
    assert {"train.microbatches": 2} in changes


@pytest.mark.parametrize(
    "override", ["'nothing_here=-,fsdp'", "'down_0_0/conv_in/kernel=fsdp,-,-,-'"]
)
def test_wrong_overrides_are_config_errors(override, capsys):
    command = ["plan", "--config", TINY, "--topology=cpu:8", "--config.mesh.fsdp=8"]
    assert main([*command, f"--config.mesh.overrides=({override},)"]) == 2
    assert "override" in capsys.readouterr().err


def test_sizes_and_hardware():
    assert parse_size("80GiB") == 80 * 2**30
    assert parse_size("1.5MB") == 1.5e6
    assert parse_size("12B") == 12
    for wrong in ("80", "GiB", "80 giga", "0GiB", "-1GiB"):
        with pytest.raises(ConfigError, match="a size such as 80GiB"):
            parse_size(wrong)
    nothing = dict.fromkeys(("peak_flops", "link", "network"))
    assert choose_hardware("cpu:8", None, nothing) is None
    assert choose_hardware("tpu:v5e:4x4", None, nothing) == HARDWARE["v5e"]
    assert choose_hardware("tpu:v5e:4x4", "v6e", nothing) == HARDWARE["v6e"]
    assert choose_hardware("gpu:1x8x8", "h100", {**nothing, "link": 1.0}).link == 1.0
    own = choose_hardware("cpu:8", None, {"peak_flops": 1.0, "link": 2.0, "network": 3.0})
    assert own[:3] == (1.0, 2.0, 3.0)
    assert math.isinf(own.memory)
    with pytest.raises(ConfigError, match="--link and --network: missing"):
        choose_hardware("cpu:8", None, {**nothing, "peak_flops": 1.0})
    with pytest.raises(ConfigError, match="--link: -1.0; a number above 0"):
        choose_hardware("gpu:1x8x8", "h100", {**nothing, "link": -1.0})
    with pytest.raises(ConfigError, match="--hardware: 'tpu9'; one of v4"):
        choose_hardware("cpu:8", "tpu9", nothing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology=cpu"], "--topology: 'cpu'; cpu:N, tpu:KIND:AxB"),
        (["--topology=cpu:0"], "cpu:N, tpu"),
        (["--topology=tpu:v5e"], "cpu:N, tpu"),
        (["--topology=gpu:8"], "cpu:N, tpu"),
        (["--topology=cpu:512"], "JAX runs already, with 8"),
        (["--topology=gpu:1x8x8"], "--target_config: missing"),
        (["--topology=gpu:1x8x8", "--target_config=/nowhere"], "/nowhere: cannot be read"),
        (["--topology=cpu:8", "--memory=lots"], "--memory: 'lots'"),
        (["--topology=cpu:8", "--config.mesh.fsdp=3"], "mesh.fsdp"),
        (["--topology=cpu:8", "--config.data.batch_size=12"], "12 is not a multiple of 8"),
        (["--topology=cpu:8", "--config.train.engine=pmap"], "'pmap' cannot be planned"),
        ([], "--topology: missing"),
    ],
)
def test_impossible_plans_are_refused(arguments, message, capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert main(["plan", "--config", TINY, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_devices_that_do_not_fit_are_a_config_error(tmp_path, capsys):
    """The suite has eight devices."""
    base = ["train", "--config", TINY, "--workdir", str(tmp_path / "w")]
    for override, message in (
        ("mesh.data=4", "mesh: data 4 x fsdp 1 x tensor 1 = 4 devices, but there are 8"),
        (
            "data.batch_size=12",
            "12 is not a multiple of 8 = data 8 x fsdp 1 x 1 microbatches; 8 or 16",
        ),
    ):
        assert main([*base, f"--config.{override}"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1
