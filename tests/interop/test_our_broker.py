"""What operators and these tests rely on when they start our broker."""

from contextlib import closing

from broker import Broker
from wire import EOF, connect, info


def test_it_prints_where_it_listens_and_nothing_else(our_broker):
    our_broker.peer().close()
    assert our_broker.process.lines() == [f"listening on 127.0.0.1:{our_broker.port}"]
    assert our_broker.process.stdout.endswith(b"\n")


def test_endpoint_and_name(our_broker, spawn):
    program, users = our_broker.process.argv[0], our_broker.directory / "users.json"
    process = spawn(program, "-e", "tcp:interface=127.0.0.1:port=0", "--auth", users, "--name", "näme", "--debug")
    port = int(process.wait_for(r"^listening on 127\.0\.0\.1:(\d+)$")[1])
    with connect(port, "sensor") as peer:
        assert peer.transcript == [info("näme hpx/1")]
    assert len(process.lines()) == 1


def test_sigterm(our_broker, tmp_path):
    with closing(Broker("rust", tmp_path)) as broker:
        broker.start_anywhere()
        with connect(broker.port, "sensor") as peer, broker.peer() as stranger:
            assert broker.stop() == 0
            for each in (peer, stranger):
                each.read_until_closed()
                assert each.transcript[-1] == EOF
