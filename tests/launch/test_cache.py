import os
import stat

from gen_jax.launch.cli.cache import use_compilation_cache


def test_the_cache_is_the_user_s_alone(tmp_path):
    env = {"XDG_CACHE_HOME": str(tmp_path)}
    path = use_compilation_cache(env)
    assert env["JAX_COMPILATION_CACHE_DIR"] == str(path)
    assert path.is_relative_to(tmp_path / "gen_jax")
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    path.chmod(0o755)
    assert use_compilation_cache({"XDG_CACHE_HOME": str(tmp_path)}) == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_the_user_s_own_choice_stands(tmp_path):
    for choice in ({"JAX_COMPILATION_CACHE_DIR": "/x"}, {"JAX_ENABLE_COMPILATION_CACHE": "false"}):
        env = {"XDG_CACHE_HOME": str(tmp_path), **choice}
        assert use_compilation_cache(env) is None
        assert env == {"XDG_CACHE_HOME": str(tmp_path), **choice}
    assert not list(tmp_path.iterdir())


def test_somebody_else_s_directory_is_not_used(tmp_path, monkeypatch, capsys):
    use_compilation_cache({"XDG_CACHE_HOME": str(tmp_path)})
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    env = {"XDG_CACHE_HOME": str(tmp_path)}
    assert use_compilation_cache(env) is None
    assert "JAX_COMPILATION_CACHE_DIR" not in env
    assert "not yours" in capsys.readouterr().err


def test_without_a_home_there_is_no_cache(tmp_path):
    (tmp_path / "file").write_text("")
    assert use_compilation_cache({"XDG_CACHE_HOME": str(tmp_path / "file")}) is None
