import socket

from semrec_ray.cluster import forget_dead_cluster, free_port


def test_the_note_of_a_cluster_is_removed_only_where_nobody_listens_there(tmp_path):
    note = tmp_path / "ray_current_cluster"
    with socket.create_server(("127.0.0.1", 0)) as alive:
        note.write_text(f"127.0.0.1:{alive.getsockname()[1]}")
        forget_dead_cluster(tmp_path)
        assert note.exists()
    note.write_text(f"127.0.0.1:{free_port()}\n")
    forget_dead_cluster(tmp_path)
    assert not note.exists()


def test_a_note_that_is_missing_or_no_address_is_left_alone(tmp_path):
    forget_dead_cluster(tmp_path)
    note = tmp_path / "ray_current_cluster"
    note.write_text("no address")
    forget_dead_cluster(tmp_path)
    assert note.read_text() == "no address"
