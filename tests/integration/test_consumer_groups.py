"""Consumer groups of the consumer protocol (KIP-848) with the clients that speak it, and from and to the classic protocol. What
must hold is the same as in test_groups.py: no record is missing, and none is delivered after a commit that covers it."""

import subprocess
import uuid

import pytest
from harness import CLIENTS, Driver, group_violations, run_driver, settled_ends, wait_until
from test_groups import Group, load, owned, partitions_since, share_all, wait_gets
from wire import Wire

CLIENTS_848 = ["librdkafka", "java"]
QUICK = {"group.consumer.heartbeat.interval.ms": 300, "group.consumer.session.timeout.ms": 6000}


@pytest.fixture
def quick(culex_factory):
    return culex_factory(server=QUICK)


@pytest.fixture
def live(quick):
    with load(quick) as publisher:
        yield quick, publisher


def tool(culex, *args):
    argv = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{CLIENTS}/java/lib/*",
            "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--bootstrap-server", culex.bootstrap, *args]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=180)
    return done.stdout + done.stderr


def end(g, publisher, culex):
    ends = settled_ends(culex.bootstrap, "demo", publisher.stop()["acked"])
    g.wait_all(ends)
    assert group_violations(g.all) == []
    return ends


@pytest.mark.saw("KIP-848 groups")
@pytest.mark.parametrize("client", CLIENTS_848)
def test_two_members_share_one_leaves_one_is_killed(live, client):
    culex, publisher = live
    g = Group(culex, client, {"protocol": "consumer"})
    try:
        a = g.join()
        wait_gets(a, set(range(16)))
        b = g.join()
        b.wait_records(200)
        mark_a, mark_b = len(a.events), len(b.events)
        wait_until("both together get all partitions", lambda: len(
            partitions_since(a, mark_a) | partitions_since(b, mark_b)) == 16, 120, every=0.05)
        wait_until("it has seen each of its half", lambda: len(partitions_since(b, 0)) == 8)  # the server's assignor is even
        b.leave()
        wait_gets(a, set(range(16)))
        c = g.join()
        c.wait_records(100)
        a.kill9()
        wait_gets(c, set(range(16)))
        ends = end(g, publisher, culex)
        c.leave()
        assert c.committed == {p: e for p, (_, e) in ends.items() if e}
    finally:
        g.close()


@pytest.mark.parametrize("client", CLIENTS_848)
def test_members_outlive_a_killed_server(live, client):
    culex, publisher = live
    g = Group(culex, client, {"protocol": "consumer"})
    try:
        a, b = g.join(), g.join()
        b.wait_records(1)
        for _ in range(3):
            n = len(g.delivered())
            wait_until("records flow", lambda: len(g.delivered()) > n + 1000, 120, every=0.02)
            culex.server.kill9()
            culex.server.start()
        end(g, publisher, culex)
    finally:
        g.close()


@pytest.fixture
def patient(culex):
    """As `live`, with Kafka's own session timeout: who comes back may take longer than six seconds to start."""
    with load(culex) as publisher:
        yield culex, publisher


@pytest.mark.parametrize("client", CLIENTS_848)
def test_static_member_comes_back_to_its_work(patient, client):
    culex, publisher = patient
    g = Group(culex, client, {"protocol": "consumer"})
    try:
        a = g.join(instance_id="one")
        a.wait_records(1)
        b = g.join(instance_id="two")
        b.wait_records(100)
        share_all(a, b)
        share = owned(a)
        assert len(share) == 8
        a.leave()  # with -2: it says that it will be back
        events_of_b = [e for _, e in list(b.events) if "assigned" in e or "revoked" in e]
        again = g.join(instance_id="one")
        wait_gets(again, share)
        end(g, publisher, culex)
        assert [e for _, e in list(b.events) if "assigned" in e or "revoked" in e] == events_of_b
        assert partitions_since(again, 0) == share
    finally:
        g.close()


@pytest.mark.parametrize("client", CLIENTS_848)
def test_a_group_is_upgraded_member_by_member_and_back(live, client):
    culex, publisher = live
    # What librdkafka's cooperative-sticky puts beside an assignment would be lost: such a group stays classic, as in Kafka.
    g = Group(culex, client, {"assignor": "cooperative-sticky" if client == "java" else "range"})
    new = Group(culex, client, {"protocol": "consumer"})
    new.all = g.all
    try:
        a, b = g.join(), g.join()
        b.wait_records(100)
        a.leave()
        c = new.join()
        c.wait_records(100)  # beside a member of the classic protocol
        assert "of the consumer protocol" in culex.server.log()
        b.wait_records(len(b.records) + 100)
        b.leave()
        wait_gets(c, set(range(16)))
        d = g.join()  # and back
        d.wait_records(100)
        c.leave()
        wait_gets(d, set(range(16)))
        assert "of the classic protocol" in culex.server.log()
        end(g, publisher, culex)
    finally:
        g.close()


@pytest.mark.parametrize("client,pattern", [("librdkafka", "^dem.*"), ("java", "dem.|none")])
def test_patterns_are_the_servers_business(quick, client, pattern):
    quick.publish("demo/x", [str(i) for i in range(40)])
    d = run_driver(client, quick.bootstrap, "demo", "g", 40, protocol="consumer", pattern=pattern)
    assert len(d.records) == 40 and sum(d.committed.values()) == 40


@pytest.mark.saw("KIP-848 groups", client="kafka-consumer-groups")
def test_kafkas_own_tool_describes_lists_and_deletes(quick):
    quick.publish("demo/x", [str(i) for i in range(10)])
    d = Driver("java", quick.bootstrap, "demo", "new", 0, protocol="consumer", assignor="range")
    try:
        d.wait_records(10)
        d.wait_for("its commit", lambda ev: any("commit" in e for _, e in ev))
        listed = tool(quick, "--list", "--state", "--type")
        assert any(line.split()[:3] == ["new", "Consumer", "Stable"] for line in listed.splitlines()), listed
        state = tool(quick, "--describe", "--group", "new", "--state", "--verbose")
        assert "range" in state and "Stable" in state, state
        members = tool(quick, "--describe", "--group", "new", "--members", "--verbose")
        assert "demo:0,1,2,3" in members.replace(" ", ""), members
        offsets = tool(quick, "--describe", "--group", "new", "--offsets")
        assert offsets.count("demo") == 16, offsets
        assert "is not empty" in tool(quick, "--delete", "--group", "new")
        assert "subscribed to it" in tool(quick, "--delete-offsets", "--group", "new", "--topic", "demo")
        d.leave()
        assert "Empty" in tool(quick, "--describe", "--group", "new", "--state")
        assert "was successful" in tool(quick, "--delete", "--group", "new")
        assert "new" not in tool(quick, "--list").split()
    finally:
        d.close()


def heartbeat(w, version=1, **fields):
    ask = {"GroupId": "g", "MemberId": "m", "MemberEpoch": 0, "RebalanceTimeoutMs": 30000, "SubscribedTopicNames": ["demo"],
           "TopicPartitions": []}
    ask.update(fields)
    return w.call("ConsumerGroupHeartbeat", version, **ask)


def on(w, epoch, **fields):
    """Neither the first heartbeat nor one that says all."""
    return heartbeat(w, **{"MemberEpoch": epoch, "RebalanceTimeoutMs": -1, "SubscribedTopicNames": None, "TopicPartitions": None,
                           **fields})


def test_the_protocols_errors(quick):
    with Wire(quick.server.port) as w:
        assert on(w, 1)["ErrorCode"] == 69  # GROUP_ID_NOT_FOUND
        for wrong in ({"MemberId": ""}, {"GroupId": ""}, {"RebalanceTimeoutMs": -1}, {"TopicPartitions": None},
                      {"SubscribedTopicNames": None}, {"InstanceId": ""}, {"RackId": ""}, {"MemberEpoch": -3},
                      {"MemberEpoch": -2}):
            got = heartbeat(w, **wrong)
            assert (got["ErrorCode"], bool(got["ErrorMessage"])) == (42, True), wrong  # INVALID_REQUEST
        assert heartbeat(w, ServerAssignor="sticky")["ErrorCode"] == 112  # UNSUPPORTED_ASSIGNOR
        assert heartbeat(w, SubscribedTopicRegex="(a", SubscribedTopicNames=None)["ErrorCode"] == 128
        groups = w.call("ListGroups", 5, TypesFilter=["consumer"])["Groups"]
        assert groups == []  # who was refused has left nothing
        joined = heartbeat(w)
        assert (joined["ErrorCode"], joined["MemberEpoch"], joined["HeartbeatIntervalMs"]) == (0, 1, 300)
        (topic,) = joined["Assignment"]["TopicPartitions"]
        assert topic["Partitions"] == list(range(16))
        assert on(w, 1)["Assignment"] is None
        assert on(w, 2)["ErrorCode"] == 110  # FENCED_MEMBER_EPOCH
        assert on(w, 1, MemberId="who")["ErrorCode"] == 25  # UNKNOWN_MEMBER_ID
        assert heartbeat(w, MemberId="s1", InstanceId="i")["ErrorCode"] == 0
        assert heartbeat(w, MemberId="s2", InstanceId="i")["ErrorCode"] == 111  # UNRELEASED_INSTANCE_ID
        commit = {"GroupId": "g", "MemberId": "m", "Topics": [
            {"Name": "demo", "Partitions": [{"PartitionIndex": 0, "CommittedOffset": 0}]}]}
        for version, epoch, want in ((9, 1, 0), (9, 0, 113), (8, 1, 35)):  # STALE_MEMBER_EPOCH, UNSUPPORTED_VERSION
            got = w.call("OffsetCommit", version, GenerationIdOrMemberEpoch=epoch, **commit)
            assert got["Topics"][0]["Partitions"][0]["ErrorCode"] == want, (version, epoch)
        for epoch, want in ((1, 0), (0, 113)):
            got = w.call("OffsetFetch", 9, Groups=[{"GroupId": "g", "MemberId": "m", "MemberEpoch": epoch, "Topics": None}])
            assert got["Groups"][0]["ErrorCode"] == want


def test_a_lost_answer_is_given_again_and_a_killed_server_remembers(quick):
    with Wire(quick.server.port) as w:
        assert heartbeat(w)["MemberEpoch"] == 1
        assert heartbeat(w, MemberId="n")["MemberEpoch"] == 2
        rest = on(w, 1)["Assignment"]["TopicPartitions"]
        assert len(rest[0]["Partitions"]) == 8
        assert on(w, 1, TopicPartitions=rest)["MemberEpoch"] == 2
        assert on(w, 1, TopicPartitions=rest)["MemberEpoch"] == 2  # once more, as if that had been lost
    quick.server.kill9()
    quick.server.start()
    with Wire(quick.server.port) as w:
        assert on(w, 2)["ErrorCode"] == 0
        assert len(on(w, 2, MemberId="n")["Assignment"]["TopicPartitions"][0]["Partitions"]) == 8
        (group,) = w.call("ConsumerGroupDescribe", 1, GroupIds=["g"])["Groups"]
        assert (group["GroupState"], group["GroupEpoch"], group["AssignmentEpoch"], group["AssignorName"]) == (
            "Stable", 2, 2, "uniform")
        assert sorted(m["MemberId"] for m in group["Members"]) == ["m", "n"]
        assert {m["MemberType"] for m in group["Members"]} == {1}
        assert w.call("DescribeGroups", 6, Groups=["g"])["Groups"][0]["ErrorCode"] == 69
        assert w.call("ConsumerGroupDescribe", 0, GroupIds=["no"])["Groups"][0]["ErrorCode"] == 69


def test_topics_that_grow_and_go_move_the_assignment(quick):
    name = f"free-{uuid.uuid4().hex[:8]}"
    with Wire(quick.server.port) as w:
        assert heartbeat(w, SubscribedTopicRegex="free-.*", SubscribedTopicNames=None)["Assignment"]["TopicPartitions"] == []
        made = w.call("CreateTopics", 7, Topics=[{"Name": name, "NumPartitions": 2, "ReplicationFactor": 1, "Assignments": [],
                                                  "Configs": []}], timeoutMs=5000)
        assert made["Topics"][0]["ErrorCode"] == 0
        got = on(w, 1)
        assert got["MemberEpoch"] == 2 and got["Assignment"]["TopicPartitions"][0]["Partitions"] == [0, 1]
        grown = w.call("CreatePartitions", 3, Topics=[{"Name": name, "Count": 5, "Assignments": None}], TimeoutMs=5000)
        assert grown["Results"][0]["ErrorCode"] == 0
        got = on(w, 2)
        assert got["Assignment"]["TopicPartitions"][0]["Partitions"] == [0, 1, 2, 3, 4]
        w.call("DeleteTopics", 6, Topics=[{"Name": name}], TimeoutMs=5000)
        assert on(w, 3)["Assignment"]["TopicPartitions"] == []
        assert on(w, 3, TopicPartitions=[])["MemberEpoch"] == 4
